/* SPDX-License-Identifier: MIT */
/*
 * Handlers of what only tells: STAT, LIST, HOLDERS, STATUS. Lists come a page at a time, so that a long one
 * takes no client's turn for long.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon.h"
#include "dispatch.h"
#include "util.h"

/* Each entry costs a system call or two. */
#define PAGE_ENTRIES 64u

/* A tail in the making; one thread, one answer at a time. */
static char page[SHMD_MESSAGE_MAX - sizeof(struct shmd_wire_header) - 64];

static bool may_see_holders(const struct op_context *context, const struct segment *segment) {
        return policy_manage(&context->session->credentials, &segment->owner) == 0;
}

/* Whether there is somebody beyond the connections that hold it; asks the kernel if no connection does. */
static bool is_held_elsewhere(struct op_context *context, struct segment *segment) {
        /* A SysV segment can be had without the daemon. */
        if ((!segment->handed_out && segment->backing != WIRE_BACKING_SYSV) || segment->attached > 0)
                return false;
        if (lease_is_held(&context->daemon->lease, segment))
                return segment->holders == 0;
        registry_queue_idle(segment); /* opens that only the kernel accounted for have ended */
        return false;
}

static uint8_t segment_flags(const struct segment *segment, bool elsewhere) {
        return (segment->posix ? SHMD_WIRE_SEGMENT_POSIX : 0) | (elsewhere ? SHMD_WIRE_SEGMENT_UNKNOWN : 0) |
               (segment->resizable ? SHMD_WIRE_SEGMENT_RESIZABLE : 0) |
               (segment->single_writer ? SHMD_WIRE_SEGMENT_SINGLE_WRITER : 0) |
               (segment->truncated ? SHMD_WIRE_SEGMENT_TRUNCATED : 0) |
               (segment->sysv.registered ? SHMD_WIRE_SEGMENT_REGISTERED : 0);
}

static void describe(struct op_context *context, struct segment *segment, struct shmd_wire_segment *ret) {
        uint64_t resident = memfd_refresh(segment);
        bool elsewhere = is_held_elsewhere(context, segment);

        *ret = (struct shmd_wire_segment) {
                .id = segment->id,
                .size = segment->size,
                .maximum = segment->maximum,
                .resident = resident,
                .linger_usec = segment->linger_usec,
                .created_usec = segment->created_usec,
                .opened_usec = segment->opened_usec,
                .idle_usec = elsewhere ? 0 : segment->idle_usec,
                .device = segment->device,
                .inode = segment->inode,
                .creator_started = segment->creator.started,
                .opens = segment->opens,
                .page_shift = segment->page_shift,
                .uid = segment->owner.uid,
                .gid = segment->owner.gid,
                .mode = segment->owner.mode,
                .holders = (segment->idle_queued ? segment->attached : segment->holders) + elsewhere,
                .lifetime = segment->lifetime,
                .state = segment->state,
                .backing = segment->backing,
                .flags = segment_flags(segment, elsewhere),
                .creator_pid = (uint32_t) segment->creator.pid,
                .creator_uid = segment->creator.uid,
                .name_size = segment->name_size,
                .labels_size = segment->labels_size,
                .command_size = (uint16_t) strlen(segment->creator.command),
                .unit_size = (uint16_t) strlen(segment->creator.unit),
                .executable_size = (uint16_t) strlen(segment->creator.executable),
        };
        if (segment->backing == WIRE_BACKING_SYSV) {
                ret->sysv_key = segment->sysv.key;
                ret->sysv_id = (uint32_t) segment->sysv.shmid;
                ret->sysv_attached = sysv_attached(segment);
                if (segment->custody.guard_fd < 0) {
                        ret->flags |= SHMD_WIRE_SEGMENT_UNMEASURED;
                        ret->inode = context->daemon->sysv.ipc_namespace;
                }
        }
}

static char *append(char *p, const void *data, size_t size) {
        if (size > 0)
                memcpy(p, data, size);
        return p + size;
}

/* The strings that follow a struct shmd_wire_segment, padded. Gives how many bytes. */
static size_t append_strings(char *start, const struct segment *segment, const struct shmd_wire_segment *wire) {
        char *p = start;
        size_t size, padded;

        p = append(p, segment->name, wire->name_size);
        p = append(p, segment->labels, wire->labels_size);
        p = append(p, segment->creator.command, wire->command_size);
        p = append(p, segment->creator.unit, wire->unit_size);
        p = append(p, segment->creator.executable, wire->executable_size);
        size = (size_t) (p - start);
        padded = ALIGN8(size);
        memset(p, 0, padded - size);
        return padded;
}

static size_t strings_size(const struct segment *segment) {
        return ALIGN8(segment->name_size + segment->labels_size + sizeof(segment->creator.command) +
                      sizeof(segment->creator.unit) + sizeof(segment->creator.executable));
}

/* A segment without a name is only its owner's and the administrators' to see. */
static bool may_see(const struct op_context *context, const struct segment *segment) {
        return segment_has_name(segment) || may_see_holders(context, segment);
}

int op_stat(struct op_context *context, const struct shmd_wire_stat *body) {
        struct shmd_wire_segment reply;

        (void) body;
        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        describe(context, context->segment, &reply);
        return op_reply_with_tail(context, &reply, page, append_strings(page, context->segment, &reply));
}

/* Of what is not in order of names, so many are looked at for one page, whether or not they are to be told of. */
#define PAGE_SCANNED 256u

struct listing {
        struct op_context *context;
        struct shmd_wire_list_reply reply;
        char *end; /* of what is in the page */
};

/* False if the page is full. */
static bool list_add(struct listing *listing, struct segment *segment) {
        struct shmd_wire_segment wire;

        if (listing->reply.count == PAGE_ENTRIES ||
            listing->end + sizeof(wire) + strings_size(segment) > page + sizeof(page)) {
                listing->reply.more = 1;
                return false;
        }
        describe(listing->context, segment, &wire);
        listing->end = append(listing->end, &wire, sizeof(wire));
        listing->end += append_strings(listing->end, segment, &wire);
        listing->reply.count++;
        return true;
}

/* Looked at, it may turn out to have been removed in the kernel: then it is not among the named any more. */
static bool loses_name(struct segment *segment) {
        if (segment->backing == WIRE_BACKING_SYSV)
                (void) sysv_refresh(segment);
        return !segment_has_name(segment);
}

static void list_named(struct listing *listing, const struct shmd_wire_list *body) {
        struct registry *registry = &listing->context->daemon->registry;
        const char *prefix = listing->context->tail;
        struct segment *segment;

        segment = registry_next_name(registry, prefix, body->prefix_size, prefix + body->prefix_size, body->after_size);
        while (segment && (loses_name(segment) || list_add(listing, segment)))
                segment = registry_next_name(registry, prefix, body->prefix_size, segment->name, segment->name_size);
}

/* Looked at, it may turn out to have been freed by the kernel: then it is about to go here, too. */
static bool is_freed(struct segment *segment) {
        if (segment->backing != WIRE_BACKING_SYSV || !segment->sysv.registered)
                return false;
        (void) sysv_refresh(segment);
        return segment->sysv.gone && segment->idle_queued && segment->attached == 0;
}

static void list_nameless(struct listing *listing, const struct shmd_wire_list *body) {
        struct registry *registry = &listing->context->daemon->registry;
        struct segment *segment;

        listing->reply.after_id = body->after_id;
        for (unsigned i = 0; (segment = registry_next_nameless(registry, listing->reply.after_id)); i++) {
                bool fits = may_see(listing->context, segment) && segment->name_size >= body->prefix_size &&
                            memcmp(segment->name, listing->context->tail, body->prefix_size) == 0;

                if (i == PAGE_SCANNED) {
                        listing->reply.more = 1;
                        return;
                }
                if (fits && !is_freed(segment) && !list_add(listing, segment))
                        return;
                listing->reply.after_id = segment->id;
        }
}

int op_list(struct op_context *context, const struct shmd_wire_list *body) {
        struct listing listing = { .context = context, .end = page };

        if ((size_t) body->prefix_size + body->after_size != context->tail_size)
                return SHMD_MALFORMED;
        if (body->flags & ~SHMD_WIRE_LIST_UNLINKED)
                return SHMD_INVALID;
        if (body->prefix_size > SHMD_NAME_MAX || body->after_size > SHMD_NAME_MAX)
                return SHMD_NAME_TOO_LONG;

        if (body->flags & SHMD_WIRE_LIST_UNLINKED)
                list_nameless(&listing, body);
        else
                list_named(&listing, body);
        return op_reply_with_tail(context, &listing.reply, page, (size_t) (listing.end - page));
}

static void describe_holder(const struct hold *hold, struct shmd_wire_holder *ret) {
        struct session *session = (struct session *) ((char *) hold->client - offsetof(struct session, client));

        session_describe(session);
        *ret = (struct shmd_wire_holder) {
                .key = hold->key,
                .since_usec = hold->since_usec,
                .pid = (uint32_t) session->credentials.pid,
                .uid = session->credentials.uid,
                .gid = session->credentials.gid,
                .access = hold->attached[SHMD_ACCESS_WRITE] || hold->detached[SHMD_ACCESS_WRITE] ? SHMD_ACCESS_WRITE
                                                                                                   : SHMD_ACCESS_READ,
                .count = (uint32_t) MIN(hold->attached[0] + hold->attached[1] + hold->detached[0] + hold->detached[1], UINT32_MAX),
                .detached = hold->attached[0] + hold->attached[1] == 0,
        };
        memcpy(ret->command, session->command, sizeof(ret->command));
        memcpy(ret->unit, session->unit, sizeof(ret->unit));
}

int op_holders(struct op_context *context, const struct shmd_wire_holders *body) {
        struct shmd_wire_holders_reply reply = { 0 };
        struct shmd_wire_holder *entries = (struct shmd_wire_holder *) page;
        struct hold *hold;

        if (context->tail_size > 0)
                return SHMD_MALFORMED;
        reply.unknown = is_held_elsewhere(context, context->segment);
        reply.hidden = !may_see_holders(context, context->segment);
        if (!reply.hidden && !context->segment->idle_queued)
                TAILQ_FOREACH(hold, &context->segment->holds, by_age) {
                        if (hold->key <= body->after)
                                continue;
                        if (reply.count == PAGE_ENTRIES) {
                                reply.more = 1;
                                break;
                        }
                        describe_holder(hold, &entries[reply.count++]);
                }
        return op_reply_with_tail(context, &reply, page, reply.count * sizeof(*entries));
}

/* proc(5): since Linux 6.2 the size of the directory is the number of open descriptors. Counting them would take too long. */
static uint64_t count_descriptors(const struct daemon *daemon) {
        struct stat st;

        if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
                return (uint64_t) st.st_size;
        return daemon->registry.segments + daemon->memfd.shared_count + daemon->server.count;
}

static uint64_t memory_available(void) {
        FILE *file = fopen("/proc/meminfo", "re");
        unsigned long long kilobytes = 0;
        char line[128];

        if (!file)
                return 0;
        while (fgets(line, sizeof(line), file))
                if (sscanf(line, "MemAvailable: %llu", &kilobytes) == 1)
                        break;
        (void) fclose(file);
        return (uint64_t) kilobytes * 1024;
}

int op_status(struct op_context *context, const struct shmd_wire_status *body) {
        struct daemon *daemon = context->daemon;
        uid_t uid = context->session->credentials.uid;
        struct shmd_wire_status_reply reply = {
                .started_usec = daemon->started_usec,
                .uptime_usec = now_monotonic_usec() - daemon->started_monotonic_usec,
                .instance = daemon->instance,
                .segments = daemon->registry.segments,
                .unlinked = daemon->registry.nameless_count,
                .bytes = daemon->registry.bytes,
                .holds = daemon->registry.holds,
                .connections = daemon->server.count,
                .descriptors = count_descriptors(daemon),
                .descriptors_max = daemon->descriptors_max,
                .memory_available = memory_available(),
                .pid = (uint32_t) getpid(),
                .uid = geteuid(),
                .version = PACKAGE_VERSION,
                .restarts = store_restarts(&daemon->store),
                .serving_usec = store_serving_since(&daemon->store),
                .store = daemon->store.active,
                .store_entries = store_carriers(&daemon->store),
                .watchdog_usec = daemon->notify.watchdog_usec,
        };

        if (body->reserved != 0)
                return SHMD_MALFORMED;
        reply.store_failure = store_failure(&daemon->store, &reply.store_failing_usec);
        for (int i = 0; i < (int) ELEMENTSOF(reply.used); i++) {
                reply.used[i] = quota_used(&daemon->quota, uid, i);
                reply.maximum[i] = quota_maximum(&daemon->quota, uid, i);
        }
        return op_reply(context, &reply, NULL, 0);
}

/* --- ACCOUNTS --- */

#define ACCOUNTS_A_PAGE 256u

static struct shmd_wire_account describe_account(struct daemon *daemon, uid_t uid) {
        struct shmd_wire_account account = { .uid = uid };

        for (int i = 0; i < (int) ELEMENTSOF(account.used); i++) {
                account.used[i] = quota_used(&daemon->quota, uid, i);
                account.maximum[i] = quota_maximum(&daemon->quota, uid, i);
        }
        return account;
}

static uint32_t gather_accounts(struct daemon *daemon, uid_t from, struct shmd_wire_account *accounts, uint32_t *ret_more) {
        const struct account *account = quota_next_account(&daemon->quota, from);
        uint32_t count = 0;

        while (account && count < ACCOUNTS_A_PAGE) {
                accounts[count++] = describe_account(daemon, account->uid);
                account = account->uid == UINT32_MAX ? NULL : quota_next_account(&daemon->quota, account->uid + 1);
        }
        *ret_more = account != NULL;
        return count;
}

int op_accounts(struct op_context *context, const struct shmd_wire_accounts *body) {
        static struct shmd_wire_account accounts[ACCOUNTS_A_PAGE];
        const struct credentials *credentials = &context->session->credentials;
        bool after = body->flags & SHMD_WIRE_ACCOUNTS_AFTER;
        struct shmd_wire_accounts_reply reply = { 0 };

        if ((body->flags & ~SHMD_WIRE_ACCOUNTS_AFTER) || (!after && body->after_uid != 0))
                return SHMD_MALFORMED;
        if (credentials->administrator) {
                if (!after || body->after_uid != UINT32_MAX)
                        reply.count = gather_accounts(context->daemon, after ? body->after_uid + 1 : 0, accounts, &reply.more);
        } else if (!after) {
                accounts[0] = describe_account(context->daemon, credentials->uid);
                reply.count = 1;
        }
        return op_reply_with_tail(context, &reply, accounts, reply.count * sizeof(accounts[0]));
}
