/* SPDX-License-Identifier: MIT */
#include "shmdctl.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

/* Less than this is done before anybody has read the bar. Bytes. */
#define PROGRESS_MIN (UINT64_C(16) << 20)
#define PROGRESS_PERIOD_USEC UINT64_C(100000)

/* --- the bar --- */

static struct {
        bool shown;
        bool drawn;
        uint64_t total; /* 0: not known */
        uint64_t next_usec;
} bar;

static int terminal_width(void) {
        struct winsize size;

        return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void progress_begin(uint64_t total, bool wanted) {
        bar.shown = wanted && (total == 0 || total >= PROGRESS_MIN) && isatty(STDERR_FILENO);
        bar.drawn = false;
        bar.total = total;
        bar.next_usec = 0;
}

/* " 45% [=====>      ] 90M of 200M", shorter on a narrow terminal. */
static void format_share(uint64_t done, uint64_t total, int width, char *line, size_t size) {
        char done_text[TEXT_SIZE_MAX], total_text[TEXT_SIZE_MAX], counts[2 * TEXT_SIZE_MAX + 8], cells[61];
        uint64_t per_mille = total >= 1000 ? MIN(done / (total / 1000), 1000) : 0;
        int n_cells, filled;

        snprintf(counts, sizeof(counts), "%s of %s", format_size(done, false, done_text),
                 format_size(total, false, total_text));
        n_cells = MIN(width - (int) strlen(counts) - 9, (int) sizeof(cells) - 1);
        if (n_cells < 5) {
                snprintf(line, size, "%3" PRIu64 "%%", per_mille / 10);
                return;
        }
        filled = (int) per_mille * n_cells / 1000;
        memset(cells, ' ', (size_t) n_cells);
        memset(cells, '=', (size_t) filled);
        if (filled < n_cells)
                cells[filled] = '>';
        cells[n_cells] = 0;
        snprintf(line, size, "%3" PRIu64 "%% [%s] %s", per_mille / 10, cells, counts);
}

void progress_update(uint64_t done) {
        char line[256], text[TEXT_SIZE_MAX];
        uint64_t now;
        int width;

        if (!bar.shown || done < PROGRESS_MIN / 16)
                return;
        now = now_monotonic_usec();
        if (now < bar.next_usec)
                return;
        bar.next_usec = now + PROGRESS_PERIOD_USEC;
        bar.drawn = true;

        width = terminal_width() - 1; /* in the last column some terminals begin a new line */
        if (bar.total > 0)
                format_share(done, bar.total, width, line, sizeof(line));
        else
                snprintf(line, sizeof(line), "%s read", format_size(done, false, text));
        fprintf(stderr, "\r%-*s", width, line);
        fflush(stderr);
}

void progress_end(void) {
        if (bar.drawn)
                fprintf(stderr, "\r%*s\r", terminal_width() - 1, "");
        bar.shown = bar.drawn = false;
}

/* --- being interrupted --- */

static const int interrupting[] = { SIGINT, SIGTERM, SIGHUP };
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
        interrupted = signal_number;
}

void interrupt_catch(void) {
        struct sigaction old, action = { .sa_handler = on_interrupt }; /* no SA_RESTART */

        for (size_t i = 0; i < ELEMENTSOF(interrupting); i++) {
                /* nohup(1) and the like shall go on to work. */
                if (sigaction(interrupting[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
                        sigaction(interrupting[i], &action, NULL);
        }
}

bool interrupt_pending(void) {
        return interrupted != 0;
}

void interrupt_deliver(void) {
        if (!interrupted)
                return;
        signal(interrupted, SIG_DFL);
        raise(interrupted);
}

int interrupt_poll(struct pollfd *fds, unsigned n_fds, uint64_t timeout_usec) {
        struct timespec timeout = { .tv_sec = (time_t) (timeout_usec / USEC_PER_SECOND),
                                    .tv_nsec = (long) (timeout_usec % USEC_PER_SECOND) * 1000 };
        sigset_t set, mask;
        int r, error;

        sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTSOF(interrupting); i++)
                sigaddset(&set, interrupting[i]);
        sigprocmask(SIG_BLOCK, &set, &mask);
        errno = EINTR;
        r = interrupted ? -1 : ppoll(fds, n_fds, timeout_usec == UINT64_MAX ? NULL : &timeout, &mask);
        error = errno;
        sigprocmask(SIG_SETMASK, &mask, NULL);
        return r < 0 ? -error : r;
}
