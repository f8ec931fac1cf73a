/* SPDX-License-Identifier: MIT */
/*
 * top on a terminal. One loop: keys are answered at once, a picture is taken when its time has come. A daemon that has
 * gone is told of, and asked again.
 */
#include "top.h"

#include <curses.h>
#include <inttypes.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

struct screen {
        struct ctl *ctl;
        struct top *top;
        size_t first;  /* row on top of the screen */
        bool typing;   /* the filter */
        bool helping;
        bool quit;
        char problem[256]; /* of the last picture */
};

#define HEADER_LINES 4

static size_t page_lines(void) {
        return LINES > HEADER_LINES ? (size_t) (LINES - HEADER_LINES) : 1;
}

/* --- drawing --- */

/* As much of a text as has room, nothing in it that a terminal might act on. */
static void draw_text(int line, int column, const char *unsafe) {
        _cleanup_(freep) char *copy = text_for_screen(unsafe);
        const char *text = copy;
        int room = COLS - column, used = 0;
        mbstate_t state = { 0 };

        if (room <= 0 || move(line, column) == ERR)
                return;
        while (*text && used < room) {
                wchar_t character[2] = { 0 };
                size_t n = mbrtowc(character, text, MB_CUR_MAX, &state);
                int width = n > 0 && n < (size_t) -2 ? wcwidth(character[0]) : -1;

                if (n == 0 || n >= (size_t) -2) {
                        memset(&state, 0, sizeof(state));
                        n = 1;
                }
                if (width < 0) {
                        character[0] = L'?';
                        width = 1;
                }
                if (used + width > room)
                        break;
                addwstr(character);
                used += width;
                text += n;
        }
}

/* What stands before the name. On a narrow terminal what is dispensable goes, but for what is sorted by. */
enum field {
        FIELD_SIZE,
        FIELD_RESIDENT,
        FIELD_HOLDERS,
        FIELD_RATE,
        FIELD_OWNER,
        FIELDS,
};

static const struct {
        const char *title;
        int width; /* negative: to the left */
        enum top_order order;
} fields[FIELDS] = {
        [FIELD_SIZE] = { "SIZE", 10, TOP_SIZE },       [FIELD_RESIDENT] = { "RESIDENT", 10, TOP_RESIDENT },
        [FIELD_HOLDERS] = { "HOLDERS", 8, TOP_HOLDERS }, [FIELD_RATE] = { "OPENS/S", 9, TOP_OPENS },
        [FIELD_OWNER] = { "OWNER", -10, TOP_ORDERS },
};

/* Columns of the screen; a name shall have so many at least. */
#define NAME_ROOM 24

static unsigned fields_that_fit(enum top_order order) {
        static const enum field dispensable[] = { FIELD_OWNER, FIELD_HOLDERS, FIELD_RATE, FIELD_SIZE, FIELD_RESIDENT };
        unsigned chosen = (1u << FIELDS) - 1;
        int used = 0;

        for (size_t i = 0; i < FIELDS; i++)
                used += abs(fields[i].width) + 1;
        for (size_t i = 0; i < FIELDS && used + NAME_ROOM > COLS; i++) {
                enum field field = dispensable[i];

                if (fields[field].order == order)
                        continue;
                chosen &= ~(1u << field);
                used -= abs(fields[field].width) + 1;
        }
        return chosen;
}

static void draw_line(const struct screen *screen, int line, const char *const cells[FIELDS], const char *name) {
        unsigned chosen = fields_that_fit(screen->top->order);
        char text[200];
        int column = 0;

        for (size_t i = 0; i < FIELDS; i++) {
                if (!(chosen & 1u << i))
                        continue;
                snprintf(text, sizeof(text), "%*.*s ", fields[i].width, fields[i].width < 0 ? -fields[i].width : 30, cells[i]);
                draw_text(line, column, text);
                column += MAX(abs(fields[i].width) + 1, (int) strlen(text));
        }
        draw_text(line, column, name);
}

static void draw_titles(const struct screen *screen, int line) {
        const char *cells[FIELDS];

        for (size_t i = 0; i < FIELDS; i++)
                cells[i] = fields[i].title;
        attron(A_REVERSE);
        mvhline(line, 0, ' ', COLS);
        draw_line(screen, line, cells, "NAME");
        attroff(A_REVERSE);
}

static void draw_row(const struct screen *screen, int line, const struct top_row *row) {
        bool exact = screen->ctl->options.bytes;
        char size[TEXT_SIZE_MAX], resident[TEXT_SIZE_MAX], holders[16], rate[32];
        const char *cells[FIELDS] = { size, resident, holders, rate, user_name(row->uid) };

        format_size(row->size_bytes, exact, size);
        format_resident(row->resident_bytes, exact, resident);
        snprintf(holders, sizeof(holders), "%" PRIu32, row->holders);
        snprintf(rate, sizeof(rate), "%.1f", row->rate);
        draw_line(screen, line, cells, row->name);
}

static void draw_header(const struct screen *screen) {
        const struct top *top = screen->top;
        const struct shmd_status *status = &top->status;
        char size[TEXT_SIZE_MAX], resident[TEXT_SIZE_MAX], up[TEXT_SIZE_MAX], text[512];

        snprintf(text, sizeof(text), "shmd %s, pid %" PRIu32 ", up %s, %" PRIu64 " connections, %" PRIu64 " holds",
                 status->version, status->pid, format_duration(status->uptime_usec, up), status->connections, status->holds);
        draw_text(0, 0, text);
        snprintf(text, sizeof(text), "%zu segments, %s, %s resident, %.1f opens/s", top->count,
                 format_size(status->bytes, false, size), format_size(top->resident_bytes, false, resident), top->rate);
        draw_text(1, 0, text);
        if (screen->problem[0])
                snprintf(text, sizeof(text), "! %s", screen->problem);
        else if (screen->typing || top->filter[0])
                snprintf(text, sizeof(text), "names with: %s%s (%zu)", top->filter, screen->typing ? "_" : "", top->n_shown);
        else
                snprintf(text, sizeof(text), "by %s%s; ? for help", top_order_name(top->order), top->reverse ? ", reversed" : "");
        draw_text(2, 0, text);
        draw_titles(screen, HEADER_LINES - 1);
}

static void draw_help(void) {
        static const char *const lines[] = {
                "s r h  by size, resident, holders",
                "o n i  by opens a second, name, id",
                "R      the other way round",
                "/      names with what follows:",
                "       Enter ends it, Esc clears it",
                "arrows, Page Up and Down, Home, End",
                "space  another picture at once",
                "q      quit",
        };

        for (size_t i = 0; i < ELEMENTSOF(lines); i++)
                draw_text(HEADER_LINES + (int) i, 2, lines[i]);
}

static void draw(struct screen *screen) {
        const struct top *top = screen->top;
        size_t lines = page_lines();

        screen->first = MIN(screen->first, top->n_shown > lines ? top->n_shown - lines : 0);
        erase();
        draw_header(screen);
        if (screen->helping)
                draw_help();
        for (size_t i = 0; !screen->helping && i < lines && screen->first + i < top->n_shown; i++)
                draw_row(screen, HEADER_LINES + (int) i, top->shown[screen->first + i]);
        refresh();
}

/* --- keys --- */

static void type_filter(struct screen *screen, int key) {
        char *filter = screen->top->filter;
        size_t length = strlen(filter);

        if (key == '\n' || key == '\r' || key == KEY_ENTER)
                screen->typing = false;
        else if (key == 27) {
                filter[0] = 0;
                screen->typing = false;
        } else if (key == KEY_BACKSPACE || key == 127 || key == 8) {
                while (length > 0 && (filter[--length] & 0xc0) == 0x80) /* the whole character */
                        ;
                filter[length] = 0;
        } else if (key >= ' ' && key < 256 && length + 1 < sizeof(screen->top->filter)) {
                filter[length] = (char) key;
                filter[length + 1] = 0;
        }
        top_arrange(screen->top);
}

static bool choose_order(struct screen *screen, int key) {
        static const char keys[] = "srhoni"; /* as enum top_order */
        const char *found = key > 0 && key < 128 ? strchr(keys, key) : NULL;

        if (!found)
                return false;
        screen->top->order = (enum top_order) (found - keys);
        screen->first = 0;
        top_arrange(screen->top);
        return true;
}

static void scroll_rows(struct screen *screen, int key) {
        size_t lines = page_lines(), first = screen->first;

        switch (key) {
        case KEY_UP:
                screen->first = first > 0 ? first - 1 : 0;
                break;
        case KEY_DOWN:
                screen->first = first + 1;
                break;
        case KEY_PPAGE:
                screen->first = first > lines ? first - lines : 0;
                break;
        case KEY_NPAGE:
                screen->first = first + lines;
                break;
        case KEY_HOME:
                screen->first = 0;
                break;
        case KEY_END:
                screen->first = SIZE_MAX / 2;
                break;
        default:
                break;
        }
}

/* True if another picture is wanted at once. */
static bool handle_key(struct screen *screen, int key) {
        if (key == 'L' - '@') { /* ^L: all of it anew, if somebody has written across it */
                clearok(curscr, TRUE);
                return false;
        }
        if (screen->typing) {
                type_filter(screen, key);
                return false;
        }
        screen->helping = key == '?' && !screen->helping;
        if (choose_order(screen, key))
                return false;
        switch (key) {
        case 'q':
                screen->quit = true;
                return false;
        case 'R':
                screen->top->reverse = !screen->top->reverse;
                top_arrange(screen->top);
                return false;
        case '/':
                screen->typing = true;
                return false;
        case 27:
                screen->top->filter[0] = 0;
                top_arrange(screen->top);
                return false;
        default:
                scroll_rows(screen, key);
                return key == ' ';
        }
}

/* --- the loop --- */

static void take(struct screen *screen) {
        screen->problem[0] = 0;
        if (top_take(screen->ctl, screen->top) < 0)
                snprintf(screen->problem, sizeof(screen->problem), "%s", shmd_error_message(screen->ctl->connection));
}

static void loop(struct screen *screen, uint64_t interval_usec) {
        uint64_t next_usec = now_monotonic_usec() + interval_usec;

        take(screen);
        while (!screen->quit && !interrupt_pending()) {
                uint64_t now = now_monotonic_usec();
                int key;

                draw(screen);
                timeout(now < next_usec ? (int) ((next_usec - now) / 1000) + 1 : 0);
                key = getch();
                if ((key != ERR && handle_key(screen, key)) || now_monotonic_usec() >= next_usec) {
                        take(screen);
                        next_usec = now_monotonic_usec() + interval_usec;
                }
        }
}

/* There are some that can't be written to but at their last line. */
static bool is_usable(void) {
        const char *cursor_address = tigetstr("cup");

        return cursor_address && cursor_address != (const char *) -1;
}

int top_run(struct ctl *ctl, struct top *top, uint64_t interval_usec) {
        struct screen screen = { .ctl = ctl, .top = top };
        SCREEN *terminal;

        top_arrange(top);
        terminal = newterm(NULL, stdout, stdin);
        if (!terminal || !is_usable()) {
                if (terminal)
                        delscreen(terminal);
                return fail("this terminal can't be used, $TERM is \"%s\": say --once", getenv("TERM") ? getenv("TERM") : "");
        }
        interrupt_catch(); /* curses has put its own handlers */
        cbreak();
        noecho();
        keypad(stdscr, TRUE);
        set_escdelay(50);
        curs_set(0);
        loop(&screen, interval_usec);
        endwin();
        delscreen(terminal);
        interrupt_deliver();
        return STATUS_DONE;
}
