/* SPDX-License-Identifier: MIT */
/*
 * SysV segments: brokered, adopted, registered; the process with the rights to them. All in an IPC namespace of their own, where
 * that can be had: nobody else's segments are touched.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client.h"
#include "harness.h"
#include "manager.h"
#include "process.h"
#include "raw.h"
#include "status.h"
#include "sysv_kernel.h"
#include "test.h"

#define PAGE test_page_size()
#define KEY 0x7368u

static const struct identity alice = { .uid = 61001, .gid = 61001 };
static const struct identity bob = { .uid = 61002, .gid = 61002 };
static const struct identity keeper = { .uid = 61010, .gid = 61010 };

static struct shmd *connection;
static struct manager manager;

/* A descriptor of a SysV segment takes a right that root in a container may not have. */
static bool can_export(const char *part) {
        int id, fd;
        char path[96];
        void *memory;

        if (!test_as_root(part))
                return false;
        id = shmget(IPC_PRIVATE, PAGE, 0600);
        memory = shmat(id, NULL, 0);
        snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long) memory, (unsigned long) memory + PAGE);
        fd = open(path, O_RDWR);
        shmdt(memory);
        shmctl(id, IPC_RMID, NULL);
        if (fd < 0)
                test_skip("%s: no CAP_CHECKPOINT_RESTORE here", part);
        close_fd(fd);
        return fd >= 0;
}

static void own_namespace(void) {
        if (geteuid() == 0)
                ck_assert_int_eq(unshare(CLONE_NEWIPC), 0);
}

static void setup(void) {
        own_namespace();
        daemon_setup();
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
        connection = client_connect();
}

static void teardown(void) {
        connection = shmd_disconnect(connection);
        daemon_teardown();
}

static void setup_manager(void) {
        own_namespace();
        manager_start(&manager, NULL);
        setenv("SHMD_SOCKET", manager.socket, 1);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
}

static void teardown_manager(void) {
        connection = shmd_disconnect(connection);
        manager_stop(&manager);
}

static struct shmd_segment *make(const char *name, uint32_t key, uint32_t mode, uint32_t lifetime) {
        const struct shmd_create_options options = { .sysv = SHMD_SYSV_MAKE, .sysv_number = key, .mode = mode, .lifetime = lifetime };
        struct shmd_segment *segment = NULL;

        ASSERT_OK(connection, shmd_create(connection, name, 5000, SHMD_EXCLUSIVE, &options, &segment));
        return segment;
}

static int adopt(struct shmd *shmd, const char *name, int shmid) {
        const struct shmd_create_options options = { .sysv = SHMD_SYSV_ADOPT, .sysv_number = (uint32_t) shmid };
        struct shmd_segment *segment = NULL;
        int r = shmd_create(shmd, name, 0, SHMD_EXCLUSIVE, &options, &segment);

        shmd_close(segment);
        return r;
}

static int shmid_of(const char *name) {
        return (int) client_stat(connection, name).sysv_id;
}

static struct sysv_facts kernel_says(int shmid) {
        struct sysv_facts facts = { 0 };

        ck_assert_int_eq(sysv_kernel_stat(shmid, &facts), 0);
        return facts;
}

static bool is_in_kernel(int shmid) {
        struct sysv_facts facts;

        return sysv_kernel_stat(shmid, &facts) == 0;
}

static char *attach(int shmid) {
        char *memory = shmat(shmid, NULL, 0);

        ck_assert_ptr_ne(memory, (void *) -1);
        return memory;
}

#define AWAIT_REMOVED(shmid) TEST_UNTIL(!is_in_kernel(shmid), "the segment's removal from the kernel")

/* --- brokered --- */

START_TEST(test_same_memory) {
        struct outcome outcome = OUTCOME_INIT;
        struct shmd_segment *segment;
        struct shmd_stat stat;
        char key[16], path[512];
        int id;

        if (!can_export("brokered segments"))
                return;
        segment = make("brokered", KEY, 0640, 0);
        id = shmget(KEY, 0, 0);
        ck_assert_int_ge(id, 0);
        strcpy(client_map(segment), "from shmd");

        snprintf(path, sizeof(path), "%s/tests/support/sysv-user", test_environment("SHMD_TEST_BUILDDIR"));
        snprintf(key, sizeof(key), "%#x", KEY);
        process_run((const char *const[]) { path, key, "from a stranger", NULL }, NULL, NULL, &outcome);
        ck_assert_int_eq(outcome.status, 0);
        ck_assert_str_eq(outcome.output, "from shmd\n");
        ck_assert_str_eq(client_map(segment), "from a stranger");
        outcome_done(&outcome);

        stat = client_stat(connection, "brokered");
        ck_assert_uint_eq(stat.backing, SHMD_BACKING_SYSV);
        ck_assert_uint_eq(stat.sysv_key, KEY);
        ck_assert_uint_eq(stat.sysv_id, (unsigned) id);
        ck_assert_uint_eq(stat.size_bytes, 5000);
        ck_assert_uint_eq(stat.mode, 0640);
        ck_assert_uint_eq(kernel_says(id).mode, 0640);
        ck_assert_uint_eq(kernel_says(id).size, 5000);
        shmd_close(segment);
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        AWAIT_REMOVED(id);
}
END_TEST

/* What keeps it: an attachment, a mapping of its descriptor, a process that is killed. */
START_TEST(test_removed_with_the_last) {
        struct shmd_segment *segment;
        char *attached, *mapped;
        int id, fd;

        if (!can_export("brokered segments"))
                return;
        segment = make("brokered", KEY, 0, 0);
        id = shmid_of("brokered");
        attached = attach(id);
        fd = dup(shmd_fd(segment));
        mapped = mmap(NULL, 5000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(mapped, MAP_FAILED);
        close(fd);
        shmd_close(segment);
        ck_assert_uint_eq(client_stat(connection, "brokered").sysv_attached, 1);
        ck_assert_uint_eq(client_stat(connection, "brokered").unknown_holder, 1);
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        daemon_await_segments(&the_daemon, 1);
        ck_assert_int_eq(shmget(KEY, 0, 0), id);

        strcpy(attached, "still here");
        if (_i == 0) {
                shmdt(attached);
                ck_assert(is_in_kernel(id));
                ck_assert_str_eq(mapped, "still here");
                munmap(mapped, 5000);
        } else {
                munmap(mapped, 5000);
                daemon_await_segments(&the_daemon, 1);
                ck_assert(is_in_kernel(id));
                ck_assert_str_eq(attached, "still here");
                shmdt(attached);
        }
        AWAIT_REMOVED(id);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

static void attach_and_wait(int channel, void *userdata) {
        (void) attach(*(int *) userdata);
        step_send(channel, 'a');
        step_expect(channel, 'z');
}

START_TEST(test_killed_attacher) {
        struct child child;
        int id;

        if (!can_export("brokered segments"))
                return;
        shmd_close(make("brokered", KEY, 0, 0));
        id = shmid_of("brokered");
        child_start(&child, attach_and_wait, &id);
        step_expect(child.channel, 'a');
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        daemon_await_segments(&the_daemon, 1);
        ck_assert(is_in_kernel(id));
        child_kill(&child);
        AWAIT_REMOVED(id);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

START_TEST(test_lifetime_holders) {
        struct shmd_segment *segment;
        char *attached;
        int id;

        if (!can_export("brokered segments"))
                return;
        segment = make("brokered", KEY, 0, SHMD_LIFETIME_HOLDERS);
        id = shmid_of("brokered");
        attached = attach(id);
        shmd_close(segment);
        ck_assert(client_exists(connection, "brokered"));
        shmdt(attached);
        AWAIT_REMOVED(id);
        ck_assert(!client_exists(connection, "brokered"));
}
END_TEST

/* ipcrm takes the name, too; the memory is there as long as somebody has it. */
START_TEST(test_removed_elsewhere) {
        struct shmd_segment *segment;
        char *attached = NULL;
        int id;

        if (!can_export("brokered segments"))
                return;
        segment = make("brokered", KEY, 0, 0);
        id = shmid_of("brokered");
        if (_i == 1)
                attached = attach(id);
        strcpy(client_map(segment), "mine");
        ck_assert_int_eq(shmctl(id, IPC_RMID, NULL), 0);
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        ck_assert_int_eq(client_try_open(connection, "brokered", 0), -ENOENT);
        ck_assert_str_eq(client_map(segment), "mine");
        ck_assert_uint_eq(client_stat_id(connection, shmd_id(segment)).state, SHMD_STATE_UNLINKED);
        /* Name and key are free at once. */
        shmd_close(make("brokered", KEY, 0, 0));
        ck_assert_int_ne(shmid_of("brokered"), id);
        shmd_close(segment);
        if (attached)
                shmdt(attached);
        daemon_await_segments(&the_daemon, 1);
}
END_TEST

/* --- owner and mode --- */

static void look_as_bob(int channel, void *userdata) {
        struct shmd *shmd = client_connect();
        int id = *(int *) userdata;

        for (unsigned i = 0; i < 3; i++) {
                char expected;

                step_receive_data(channel, &expected, 1);
                ck_assert_int_eq(client_try_open(shmd, "brokered", 0), expected == 'r' ? 0 : -EACCES);
                ck_assert_int_eq(client_try_open(shmd, "brokered", SHMD_READ_WRITE), -EACCES);
                ck_assert_int_eq(shmat(id, NULL, SHM_RDONLY) != (void *) -1, expected == 'r');
                ck_assert_ptr_eq(shmat(id, NULL, 0), (void *) -1);
                if (expected == 'r') {
                        struct shmd_segment *segment = client_open(shmd, "brokered", 0);
                        char path[64];

                        /* Read-only is read-only: the inode has the segment's mode. */
                        snprintf(path, sizeof(path), "/proc/self/fd/%d", shmd_fd(segment));
                        ck_assert_int_eq(open(path, O_RDWR), -1);
                        ck_assert_int_eq(errno, EACCES);
                        shmd_close(segment);
                }
                ck_assert_int_eq(shmd_unlink(shmd, "brokered"), -EPERM);
                ck_assert_int_eq(shmd_chmod(shmd, "brokered", 0666), -EPERM);
                ck_assert_int_eq(adopt(shmd, "stolen", id), -EEXIST);
                step_send(channel, 'd');
        }
        shmd_disconnect(shmd);
}

START_TEST(test_permissions) {
        struct sysv_facts facts;
        struct shmid_ds ds;
        struct child child;
        int id;

        if (!can_export("owner and mode of brokered segments"))
                return;
        shmd_close(make("brokered", KEY, 0600, 0));
        id = shmid_of("brokered");
        child_start_as(&child, &bob, look_as_bob, &id);
        step_send(child.channel, '-');
        step_expect(child.channel, 'd');

        /* By shmd, */
        ASSERT_OK(connection, shmd_chmod(connection, "brokered", 0644));
        ck_assert_uint_eq(kernel_says(id).mode, 0644);
        step_send(child.channel, 'r');
        step_expect(child.channel, 'd');
        ASSERT_OK(connection, shmd_chown(connection, "brokered", alice.uid, alice.gid));
        facts = kernel_says(id);
        ck_assert_uint_eq(facts.uid, alice.uid);
        ck_assert_uint_eq(facts.gid, alice.gid);

        /* and by the kernel's own call. */
        ck_assert_int_eq(shmctl(id, IPC_STAT, &ds), 0);
        ds.shm_perm.mode = 0600;
        ds.shm_perm.gid = bob.gid;
        ck_assert_int_eq(shmctl(id, IPC_SET, &ds), 0);
        step_send(child.channel, '-');
        step_expect(child.channel, 'd');
        ck_assert_uint_eq(client_stat(connection, "brokered").mode, 0600);
        ck_assert_uint_eq(client_stat(connection, "brokered").gid, bob.gid);
        child_join(&child);
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        AWAIT_REMOVED(id);
}
END_TEST

/* Who gives his segment to another user can't have it charged to him. */
START_TEST(test_given_away) {
        struct shmid_ds ds;
        int id;

        if (!can_export("segments that are given away"))
                return;
        shmd_close(make("brokered", KEY, 0600, 0));
        id = shmid_of("brokered");
        ck_assert_int_eq(shmctl(id, IPC_STAT, &ds), 0);
        ds.shm_perm.uid = bob.uid;
        ck_assert_int_eq(shmctl(id, IPC_SET, &ds), 0);
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        daemon_await_segments(&the_daemon, 0);
        ck_assert(is_in_kernel(id)); /* it is bob's now */
        shmctl(id, IPC_RMID, NULL);
}
END_TEST

/* --- what is refused --- */

static void write_number(const char *path, unsigned long number) {
        FILE *file = fopen(path, "w");

        ck_assert_ptr_nonnull(file);
        fprintf(file, "%lu\n", number);
        ck_assert_int_eq(fclose(file), 0);
}

static int try_make(const char *name, uint64_t size, uint32_t key) {
        const struct shmd_create_options options = { .sysv = SHMD_SYSV_MAKE, .sysv_number = key };

        return client_try_create(connection, name, size, SHMD_EXCLUSIVE, &options);
}

START_TEST(test_limits_of_the_kernel) {
        int id;

        if (!can_export("the kernel's limits"))
                return;
        id = shmget(KEY, PAGE, IPC_CREAT | 0600);
        ck_assert_int_eq(try_make("taken", PAGE, KEY), -EEXIST);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "with this key exists"));
        write_number("/proc/sys/kernel/shmmax", 64 * PAGE);
        ck_assert_int_eq(try_make("large", 65 * PAGE, 0), -EFBIG);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "shmmax"));
        write_number("/proc/sys/kernel/shmall", 8);
        ck_assert_int_eq(try_make("all", 8 * PAGE, 0), -EDQUOT);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "kernel.shmall is 8 pages, 1 used, 8 more asked for"));
        write_number("/proc/sys/kernel/shmmni", 1);
        ck_assert_int_eq(try_make("many", PAGE, 0), -EDQUOT);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "kernel.shmmni is 1 segments, 1 used"));
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        shmctl(id, IPC_RMID, NULL);
}
END_TEST

static void register_and_wait(int channel, void *userdata);

/* kernel.shm_rmid_forced: for a descriptor it is attached, and ours would be the last detachment. Then there is none, but all stays. */
START_TEST(test_removal_forced) {
        int adopted, registered;
        struct child child;
        char name[64];

        if (!can_export("a kernel that removes what is not attached"))
                return;
        adopted = shmget(KEY, PAGE, IPC_CREAT | 0600);
        child_start(&child, register_and_wait, NULL);
        step_receive_data(child.channel, &registered, sizeof(registered));
        write_number("/proc/sys/kernel/shm_rmid_forced", 1);
        ck_assert_int_eq(try_make("made", PAGE, KEY + 2), -EOPNOTSUPP);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "shm_rmid_forced"));
        ck_assert_int_eq(shmget(KEY + 2, 0, 0), -1);
        ck_assert_int_eq(adopt(connection, "adopted", adopted), -EOPNOTSUPP);
        snprintf(name, sizeof(name), "sysv/%d", registered);
        ck_assert_int_eq(client_try_open(connection, name, 0), -EOPNOTSUPP);
        ck_assert(is_in_kernel(adopted));
        ck_assert(is_in_kernel(registered));
        ck_assert_uint_eq(client_count(connection, "", 0), 1);
        write_number("/proc/sys/kernel/shm_rmid_forced", 0);
        ck_assert_int_eq(adopt(connection, "adopted", adopted), 0);
        ck_assert_int_eq(client_try_open(connection, name, 0), 0);
        step_send(child.channel, 'z');
        child_join(&child);
        AWAIT_REMOVED(registered);
}
END_TEST

START_TEST(test_huge_pages) {
        int id;

        if (!can_export("segments of huge pages"))
                return;
        id = shmget(KEY, 3 << 20, IPC_CREAT | SHM_HUGETLB | SHM_NORESERVE | 0600);
        if (id < 0) {
                test_skip("segments of huge pages: %s", strerror(errno));
                return;
        }
        ck_assert_int_eq(adopt(connection, "huge", id), -EOPNOTSUPP);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "huge pages"));
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        shmctl(id, IPC_RMID, NULL);
}
END_TEST

START_TEST(test_what_does_not_go_together) {
        const struct shmd_create_options bad[] = {
                { .sysv = 3 },
                { .sysv_number = 5 },
                { .sysv = SHMD_SYSV_MAKE, .maximum_bytes = 2 * PAGE },
                { .sysv = SHMD_SYSV_MAKE, .page_bytes = 1 << 21 },
                { .sysv = SHMD_SYSV_ADOPT }, /* has a size of its own */
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_int_eq(client_try_create(connection, "bad", PAGE, SHMD_EXCLUSIVE, &bad[i]), -EINVAL);
        ck_assert_int_eq(adopt(connection, "none", 0x7ffffff0), -ENOENT);
        if (!can_export("operations that a SysV segment does not know"))
                return;
        shmd_close(make("brokered", 0, 0, 0));
        ck_assert_int_eq(shmd_freeze(connection, "brokered"), -EOPNOTSUPP);
        ck_assert_int_eq(shmd_resize(connection, "brokered", PAGE), -ENOTSUP);
}
END_TEST

/* --- adopted --- */

static void adopt_as_stranger(int channel, void *userdata) {
        struct shmd *shmd = client_connect();

        (void) channel;
        ck_assert_int_eq(adopt(shmd, "stolen", *(int *) userdata), -EPERM);
        ck_assert_int_eq(shmd_sysv_register(*(int *) userdata, NULL), -EPERM);
        shmd_disconnect(shmd);
}

START_TEST(test_adopted) {
        struct child child;
        char *memory;
        int id;

        if (!can_export("adopted segments"))
                return;
        id = shmget(KEY, PAGE, IPC_CREAT | 0666);
        memory = attach(id);
        strcpy(memory, "from before");
        shmdt(memory);
        child_start_as(&child, &bob, adopt_as_stranger, &id);
        child_join(&child);
        ck_assert_int_eq(adopt(connection, "adopted", id), 0);
        ck_assert_int_eq(adopt(connection, "again", id), -EEXIST);
        ck_assert_str_eq(client_map(client_open(connection, "adopted", 0)), "from before");
        ck_assert_uint_eq(client_stat(connection, "adopted").mode, 0666);
        ck_assert_uint_eq(client_stat(connection, "adopted").sysv_key, KEY);
}
END_TEST

/* --- registered --- */

static int my_segments(void) {
        return (int) client_count(connection, "sysv/", 0);
}

static void use_by_prefix(int channel, void *userdata) {
        int id = shmd_shmget(KEY, 3 * PAGE, IPC_CREAT | 0600), again = shmd_shmget(KEY, PAGE, IPC_CREAT | 0600);
        char *memory = shmd_shmat(id, NULL, 0);

        (void) userdata;
        ck_assert_int_ge(id, 0);
        ck_assert_int_eq(again, id);
        ck_assert_int_eq(shmd_shmget(KEY, 4 * PAGE, 0), -1);
        ck_assert_int_eq(errno, EINVAL);
        ck_assert_int_eq(shmd_shmget(KEY + 1, PAGE, 0), -1);
        ck_assert_int_eq(errno, ENOENT);
        ck_assert_int_eq(shmd_shmget(KEY, PAGE, IPC_CREAT | IPC_EXCL | 0600), -1);
        ck_assert_int_eq(errno, EEXIST);
        strcpy(memory, "hello");
        step_send_data(channel, &id, sizeof(id));
        step_expect(channel, 'g');
        ck_assert_int_eq(shmd_shmdt(memory), 0);
        ck_assert_int_eq(shmd_shmctl(id, IPC_RMID, NULL), 0);
        step_send(channel, 'd');
        step_expect(channel, 'z');
}

START_TEST(test_by_prefix) {
        struct shmd_stat stat;
        struct child child;
        char name[64];
        int id;

        if (geteuid() == 0)
                child_start_as(&child, &alice, use_by_prefix, NULL);
        else
                child_start(&child, use_by_prefix, NULL);
        step_receive_data(child.channel, &id, sizeof(id));
        snprintf(name, sizeof(name), "sysv/%d", id);
        stat = client_stat(connection, name);
        ck_assert_uint_eq(stat.registered, 1);
        ck_assert_uint_eq(stat.sysv_key, KEY);
        ck_assert_uint_eq(stat.sysv_attached, 1);
        ck_assert_uint_eq(stat.holders, 1);
        ck_assert_uint_eq(stat.size_bytes, 3 * PAGE);
        ck_assert_uint_eq(stat.creator_pid, (unsigned) child.pid);
        if (geteuid() == 0) {
                struct shmd_segment *segment = NULL;

                ck_assert_uint_eq(stat.uid, alice.uid);
                if (shmd_open(connection, name, 0, &segment) == 0) /* where descriptors can be had */
                        ck_assert_str_eq(client_map(segment), "hello");
                shmd_close(segment);
        }
        step_send(child.channel, 'g');
        step_expect(child.channel, 'd');
        ck_assert_int_eq(my_segments(), 0);
        step_send(child.channel, 'z');
        child_join(&child);
        daemon_await_segments(&the_daemon, 0);
        ck_assert(!is_in_kernel(id));
        ck_assert(!daemon_log_has(&the_daemon, "loses its name")); /* or any program could fill the log */
}
END_TEST

static const struct shmd_create_options of_holders = { .lifetime = SHMD_LIFETIME_HOLDERS };

static void register_and_wait(int channel, void *userdata) {
        int id = shmget(IPC_PRIVATE, PAGE, 0600);

        (void) userdata;
        ck_assert_int_eq(shmd_sysv_register(id, &of_holders), 0);
        step_send_data(channel, &id, sizeof(id));
        step_expect(channel, 'z');
}

START_TEST(test_killed_creator) {
        struct child child, attacher;
        int id;

        child_start(&child, register_and_wait, NULL);
        step_receive_data(child.channel, &id, sizeof(id));
        ck_assert_int_eq(my_segments(), 1);
        if (_i == 0) {
                child_kill(&child);
                AWAIT_REMOVED(id);
                daemon_await_segments(&the_daemon, 0);
                return;
        }
        /* A process that it has forked, say, still uses it. */
        child_start(&attacher, attach_and_wait, &id);
        step_expect(attacher.channel, 'a');
        child_kill(&child);
        daemon_settle(&the_daemon, 1);
        ck_assert_int_eq(my_segments(), 1);
        ck_assert(is_in_kernel(id));
        child_kill(&attacher);
        AWAIT_REMOVED(id);
        daemon_await_segments(&the_daemon, 0);
}
END_TEST

/* Often more than its quota, but never at a time: natively that works for ever. */
#define ONE_AFTER_THE_OTHER 100

static void make_and_remove(int channel, void *userdata) {
        bool removed_while_attached = *(int *) userdata == 0;

        for (unsigned i = 0; i < ONE_AFTER_THE_OTHER; i++) {
                int id = shmd_shmget(IPC_PRIVATE, 64 << 10, 0600);
                char *memory = shmd_shmat(id, NULL, 0);

                ck_assert_msg(id >= 0, "segment %u: %s", i, shmd_error_message(NULL));
                ck_assert(memory != MAP_FAILED);
                if (!removed_while_attached)
                        ck_assert_int_eq(shmd_shmdt(memory), 0);
                ck_assert_int_eq(shmd_shmctl(id, IPC_RMID, NULL), 0);
                if (removed_while_attached)
                        ck_assert_int_eq(shmd_shmdt(memory), 0);
        }
        step_send(channel, 'd');
        step_expect(channel, 'z');
}

static void over_quota(int channel, void *userdata) {
        int id;

        (void) channel;
        (void) userdata;
        ck_assert_int_ge(shmd_shmget(KEY, PAGE, IPC_CREAT | 0600), 0);
        errno = 0;
        ck_assert_int_eq(shmd_shmget(KEY + 1, 256 << 10, IPC_CREAT | 0600), -1);
        ck_assert_int_eq(errno, ENOSPC);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(NULL), "over the limit"));
        ck_assert_int_eq(shmget(KEY + 1, 0, 0), -1); /* nothing is left */
        /* One that the program made otherwise stays as it is. */
        id = shmget(KEY + 2, 256 << 10, IPC_CREAT | 0600);
        errno = 0;
        ck_assert_int_eq(shmd_sysv_register(id, NULL), -EDQUOT);
        ck_assert_int_eq(errno, 0);
        ck_assert_int_eq(shmd_shmget(KEY + 2, 0, 0), id);
        ck_assert_int_eq(shmctl(id, IPC_RMID, NULL), 0);
        ck_assert_int_eq(shmd_shmctl(shmget(KEY, 0, 0), IPC_RMID, NULL), 0);
}

static void start_with_quota(char *path, size_t size) {
        const char *const arguments[] = { "--config", path, NULL };
        const struct daemon_options options = { .arguments = arguments };
        FILE *file;

        own_namespace();
        snprintf(path, size, "%s/small.conf", test_directory());
        file = fopen(path, "w");
        fprintf(file, "[limits]\nbytes = 128K\n");
        fclose(file);
        daemon_start(&the_daemon, &options);
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
}

START_TEST(test_quota) {
        struct child child;
        char path[256];

        if (!test_as_root("quotas of registered segments"))
                return;
        start_with_quota(path, sizeof(path));
        child_start_as(&child, &alice, over_quota, NULL);
        child_join(&child);
        daemon_await_segments(&the_daemon, 0);
        daemon_stop(&the_daemon);
        unlink(path);
}
END_TEST

/* The process that made them goes on, and has nothing of them. */
START_TEST(test_freed_by_kernel) {
        struct child child;
        char path[256];

        if (!test_as_root("quotas of registered segments"))
                return;
        start_with_quota(path, sizeof(path));
        child_start_as(&child, &alice, make_and_remove, &_i);
        step_expect(child.channel, 'd');
        connection = client_connect();
        ck_assert_uint_eq(client_count(connection, "sysv/", 0), 0);
        ck_assert_uint_eq(client_count(connection, "sysv/", SHMD_LIST_UNLINKED), 0);
        daemon_await_segments(&the_daemon, 0);
        step_send(child.channel, 'z');
        child_join(&child);
        connection = shmd_disconnect(connection);
        daemon_stop(&the_daemon);
        unlink(path);
}
END_TEST

static void use_in_other_namespace(int channel, void *userdata) {
        struct shmd *shmd = client_connect();
        int id;

        (void) channel;
        (void) userdata;
        ck_assert_int_eq(unshare(CLONE_NEWIPC), 0);
        id = shmd_shmget(KEY, PAGE, IPC_CREAT | 0600);
        ck_assert_int_ge(id, 0);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(NULL), "another IPC namespace"));
        ck_assert_int_eq(shmd_sysv_register(id, NULL), -EXDEV);
        ck_assert_int_eq(adopt(shmd, "other", id), -EXDEV);
        strcpy(shmd_shmat(id, NULL, 0), "works all the same");
        ck_assert_int_eq(shmd_shmctl(id, IPC_RMID, NULL), 0);
        shmd_disconnect(shmd);
}

START_TEST(test_other_namespace) {
        struct child child;
        int id;

        if (!test_as_root("IPC namespaces"))
                return;
        id = shmget(KEY, PAGE, IPC_CREAT | 0600);
        child_start(&child, use_in_other_namespace, NULL);
        child_join(&child);
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        ck_assert(is_in_kernel(id));
}
END_TEST

/* A segment of the same number in another namespace is another one: it does not make a holder. */
static void resume_from_other_namespace(int channel, void *userdata) {
        struct raw raw = RAW_INIT;
        struct shmd_stat *stat = userdata;
        char path[96];
        void *memory;
        int id, fd;

        (void) channel;
        raw_connect(&raw, the_daemon.socket);
        ck_assert_int_eq(unshare(CLONE_NEWIPC), 0);
        /* Each one in the same place has a number that is higher by as much. */
        for (id = shmget(IPC_PRIVATE, PAGE + 1, 0600); id < (int) stat->sysv_id; id = shmget(IPC_PRIVATE, PAGE + 1, 0600))
                ck_assert_int_eq(shmctl(id, IPC_RMID, NULL), 0);
        ck_assert_int_eq(id, (int) stat->sysv_id);
        memory = attach(id);
        snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long) memory, (unsigned long) memory + 2 * PAGE);
        fd = open(path, O_RDWR | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_uint_eq(raw_resume(&raw, stat->id, SHMD_ACCESS_WRITE, fd), SHMD_DENIED);
        close(fd);
        raw_close(&raw);
}

START_TEST(test_same_number) {
        struct shmd_stat stat;
        struct child child;

        if (!can_export("segments of the same number"))
                return;
        shmd_close(make("brokered", KEY, 0, 0));
        stat = client_stat(connection, "brokered");
        child_start(&child, resume_from_other_namespace, &stat);
        child_join(&child);
}
END_TEST

static void use_without_daemon(int channel, void *userdata) {
        int id;

        (void) channel;
        (void) userdata;
        setenv("SHMD_SOCKET", "/nowhere/shmd.sock", 1);
        id = shmd_shmget(IPC_PRIVATE, PAGE, 0600);
        ck_assert_int_ge(id, 0);
        ck_assert_int_eq(shmd_sysv_register(id, NULL), -ENOENT);
        ck_assert_int_eq(shmd_shmctl(id, IPC_RMID, NULL), 0);
}

START_TEST(test_without_daemon) {
        struct child child;

        child_start(&child, use_without_daemon, NULL);
        child_join(&child);
}
END_TEST

/* A name that somebody has taken keeps nobody's segment from being looked after. */
START_TEST(test_name_taken) {
        struct child child;
        char name[64];
        int id = shmget(IPC_PRIVATE, PAGE, 0600);

        snprintf(name, sizeof(name), "sysv/%d", id);
        shmctl(id, IPC_RMID, NULL);
        for (int i = 0; i < 3; i++) { /* the numbers that come next in that place of the table, most likely */
                snprintf(name, sizeof(name), "sysv/%d", id + i * 32768);
                shmd_close(client_create(connection, name, PAGE, 0));
        }
        child_start(&child, register_and_wait, NULL);
        step_receive_data(child.channel, &id, sizeof(id));
        ck_assert_int_eq(my_segments(), 4);
        child_kill(&child);
        AWAIT_REMOVED(id);
        daemon_await_segments(&the_daemon, 3);
}
END_TEST

/* --- the daemon's restart --- */

START_TEST(test_restart) {
        struct shmd_stat before, after;
        struct shmd_segment *segment;
        char *mapped;
        int id;

        if (!can_export("restarts with SysV segments"))
                return;
        segment = make("brokered", KEY, 0640, 0);
        strcpy(client_map(segment), "before");
        ASSERT_OK(connection, shmd_chown(connection, "brokered", alice.uid, alice.gid));
        before = client_stat(connection, "brokered");
        id = (int) before.sysv_id;
        mapped = mmap(NULL, 5000, PROT_READ, MAP_SHARED, shmd_fd(segment), 0);
        shmd_close(segment);
        if (_i == 0)
                manager_crash(&manager);
        else {
                manager_end(&manager, SIGTERM);
                manager_launch(&manager);
        }
        after = client_stat(connection, "brokered");
        ck_assert_uint_eq(after.id, before.id);
        ck_assert_uint_eq(after.sysv_id, before.sysv_id);
        ck_assert_uint_eq(after.sysv_key, KEY);
        ck_assert_uint_eq(after.uid, alice.uid);
        ck_assert_uint_eq(after.mode, 0640);
        ck_assert_uint_eq(after.unknown_holder, 1); /* the mapping of a descriptor that the former daemon gave */
        ck_assert_str_eq(client_map(client_open(connection, "brokered", 0)), "before");
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        connection = shmd_disconnect(connection);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
        ck_assert(client_id_exists(connection, before.id));
        ck_assert(is_in_kernel(id));
        munmap(mapped, 5000);
        AWAIT_REMOVED(id);
}
END_TEST

/* The kernel keeps the memory; what stands beside it, by which holders take turns, the service manager does. */
START_TEST(test_restart_locked) {
        struct shmd *other = NULL;
        struct shmd_segment *mine, *theirs = NULL;

        if (!can_export("restarts with SysV segments"))
                return;
        mine = make("brokered", KEY, 0, 0);
        ASSERT_OK(connection, shmd_lock(mine, 0, 0));
        manager_crash(&manager);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &other));
        ASSERT_OK(other, shmd_open(other, "brokered", SHMD_READ_WRITE, &theirs));
        ck_assert_int_eq(shmd_lock(theirs, 0, 0), -EBUSY);
        shmd_disconnect(other);
        ASSERT_OK(connection, shmd_unlock(mine));
        shmd_close(mine);
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        TEST_UNTIL(shmget(KEY, 0, 0) < 0, "the segment's removal from the kernel");
}
END_TEST

/* Also where one daemon hands over to another. */
START_TEST(test_replaced_locked) {
        struct shmd_segment *mine, *theirs;
        struct shmd *other;

        if (!can_export("handing over SysV segments"))
                return;
        mine = make("brokered", KEY, 0, 0);
        ASSERT_OK(connection, shmd_lock(mine, 0, 0));
        daemon_replace(&the_daemon);
        other = client_connect();
        theirs = client_open(other, "brokered", SHMD_READ_WRITE);
        ck_assert_int_eq(shmd_lock(theirs, 0, 0), -EBUSY);
        shmd_disconnect(other);
        ASSERT_OK(connection, shmd_unlock(mine));
        shmd_close(mine);
}
END_TEST

/* Removed, or replaced by another one, while no daemon was there. */
START_TEST(test_restart_removed) {
        int id;

        if (!can_export("restarts with SysV segments"))
                return;
        shmd_close(make("brokered", KEY, 0640, 0));
        id = shmid_of("brokered");
        manager_end(&manager, SIGTERM);
        ck_assert_int_eq(shmctl(id, IPC_RMID, NULL), 0);
        ck_assert_int_ge(shmget(KEY, PAGE, IPC_CREAT | 0600), 0);
        manager_launch(&manager);
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        ck_assert_int_ge(shmget(KEY, 0, 0), 0);
}
END_TEST

/* Not attached, with a creator that lives: it is his until he ends. */
START_TEST(test_restart_registered) {
        struct child child;
        int id;

        child_start(&child, register_and_wait, NULL);
        step_receive_data(child.channel, &id, sizeof(id));
        manager_crash(&manager);
        ck_assert_int_eq(my_segments(), 1);
        ck_assert(is_in_kernel(id));
        child_kill(&child);
        AWAIT_REMOVED(id);
        TEST_UNTIL(my_segments() == 0, "the registered segment's end");
}
END_TEST

/* --- killed between two steps --- */

/* A daemon that ends by SIGKILL when it gets there; those after it don't. */
static void start_to_be_killed(const char *moment) {
        char path[512];

        own_namespace();
        snprintf(path, sizeof(path), "%s/tests/support/.libs/preload-kill.so", test_environment("SHMD_TEST_BUILDDIR"));
        setenv("LD_PRELOAD", path, 1);
        setenv("SHMD_TEST_KILL", moment, 1);
        manager_start(&manager, NULL);
        unsetenv("LD_PRELOAD");
        unsetenv("SHMD_TEST_KILL");
        setenv("SHMD_SOCKET", manager.socket, 1);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
}

static unsigned in_kernel(void) {
        struct sysv_facts facts;
        unsigned count = 0;
        int index = 0;

        while (sysv_kernel_next(&index, &facts))
                count++;
        return count;
}

static bool can_be_killed(const char *part) {
        if (strcmp(test_environment("SHMD_TEST_SANITIZERS"), "no") != 0) {
                test_skip("%s: nothing can be preloaded beside sanitizers", part);
                return false;
        }
        return can_export(part);
}

/* The library asks the next daemon for the same: it has to find neither key nor memory of the one before. */
static const char *const making_moments[] = { "shmget", "+shmget", "shmat", "+shmat", "IPC_SET", "+IPC_SET" };

START_TEST(test_killed_making) {
        if (!can_be_killed("a daemon that is killed while it makes a SysV segment"))
                return;
        start_to_be_killed(making_moments[_i]);
        shmd_close(make("brokered", KEY, 0, 0));
        manager_await_ready(&manager, 2);
        ck_assert_uint_eq(manager.starts, 2);
        ck_assert_uint_eq(in_kernel(), 1);
        ck_assert_int_eq(shmget(KEY, 0, 0), shmid_of("brokered"));
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        TEST_UNTIL(in_kernel() == 0, "the segment's removal from the kernel");
        teardown_manager();
}
END_TEST

/* What only looks like it is left alone. */
START_TEST(test_killed_beside_others) {
        int same_size;

        if (!can_be_killed("a daemon that is killed while it makes a SysV segment"))
                return;
        start_to_be_killed("+shmget");
        same_size = shmget(KEY + 1, 5000, IPC_CREAT | 0600);
        shmd_close(make("brokered", KEY, 0, 0));
        manager_await_ready(&manager, 2);
        ck_assert(is_in_kernel(same_size));
        ck_assert_uint_eq(in_kernel(), 2);
        shmctl(same_size, IPC_RMID, NULL);
        teardown_manager();
}
END_TEST

static const char *const removing_moments[] = { "IPC_RMID", "+IPC_RMID" };

START_TEST(test_killed_removing) {
        if (!can_be_killed("a daemon that is killed while it removes a SysV segment"))
                return;
        start_to_be_killed(removing_moments[_i]);
        shmd_close(make("brokered", KEY, 0, 0));
        (void) shmd_unlink(connection, "brokered");
        manager_await_ready(&manager, 2);
        TEST_UNTIL(in_kernel() == 0, "the segment's removal from the kernel");
        connection = shmd_disconnect(connection);
        ASSERT_OK(NULL, shmd_connect(manager.socket, &connection));
        ck_assert_uint_eq(client_count(connection, "", 0), 0);
        shmd_close(make("brokered", KEY, 0, 0));
        teardown_manager();
}
END_TEST

/* --- the process with the rights --- */

struct helper {
        int fd;
        pid_t pid;
        int pidfd;
};

static const char *helper_path(void) {
        static char path[512];

        snprintf(path, sizeof(path), "%s/shmd-sysv", test_environment("SHMD_TEST_BUILDDIR"));
        return path;
}

static void helper_start(struct helper *helper, const char *user) {
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        helper->pid = fork();
        if (helper->pid == 0) {
                (void) dup2(pair[1], STDIN_FILENO);
                execl(helper_path(), "shmd-sysv", user ? "--user" : NULL, user, NULL);
                _exit(127);
        }
        close(pair[1]);
        helper->fd = pair[0];
        helper->pidfd = process_pidfd(helper->pid);
}

static int helper_end(struct helper *helper) {
        close(helper->fd);
        return process_wait(helper->pid, helper->pidfd, "shmd-sysv");
}

static int ask(struct helper *helper, const struct sysv_request *request) {
        struct wire_fds fds = { .count = 0 };
        struct sysv_reply reply = { 0 };

        ck_assert_int_eq(send(helper->fd, request, sizeof(*request), MSG_NOSIGNAL), sizeof(*request));
        ck_assert_int_eq(wire_receive(helper->fd, &reply, sizeof(reply), &fds, 0), sizeof(reply));
        ck_assert_uint_eq(fds.count, reply.result == 0 && request->operation == SYSV_EXPORT);
        wire_fds_done(&fds);
        return reply.result;
}

static int ask_again(struct helper *helper) {
        struct wire_fds fds = { .count = 0 };
        struct sysv_reply reply = { 0 };

        ck_assert_int_eq(wire_receive(helper->fd, &reply, sizeof(reply), &fds, 0), sizeof(reply));
        ck_assert_uint_eq(fds.count, 0);
        return reply.result;
}

static unsigned descriptors_of(pid_t pid) {
        char path[64];
        unsigned count = 0;
        DIR *directory;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) pid);
        directory = opendir(path);
        ck_assert_ptr_nonnull(directory);
        for (struct dirent *entry; (entry = readdir(directory));)
                count += entry->d_name[0] != '.';
        closedir(directory);
        return count;
}

START_TEST(test_misuse) {
        static const char noise[sizeof(struct sysv_request) + 1];
        struct sysv_request request = { .operation = SYSV_REMOVE };
        struct helper helper;
        unsigned descriptors;
        char *attached;
        int id, exit_status;

        if (!can_export("shmd-sysv"))
                return;
        own_namespace();
        helper_start(&helper, NULL);
        id = shmget(KEY, PAGE, IPC_CREAT | 0600);
        attached = attach(id);
        request.shmid = id;
        request.expected = kernel_says(id);
        ck_assert_int_eq(ask(&helper, &request), -EBUSY);
        shmdt(attached);
        ck_assert_int_eq(ask(&helper, &request), -ESTALE); /* its times have changed */
#define WRONG(field)                                              \
        do {                                                      \
                request.expected = kernel_says(id);               \
                request.expected.field++;                         \
                ck_assert_int_eq(ask(&helper, &request), -ESTALE); \
        } while (0)
        WRONG(size);
        WRONG(uid);
        WRONG(gid);
        WRONG(creator_uid);
        WRONG(creator_gid);
        WRONG(creator_pid);
        WRONG(last_pid);
        WRONG(changed_sec);
        WRONG(attached_sec);
        WRONG(detached_sec);
        WRONG(shmid);
        request.operation = SYSV_EXPORT;
        WRONG(creator_pid);
        request.operation = SYSV_SET;
        WRONG(uid);
        WRONG(mode);
        request.expected = kernel_says(id);
        request.mode = 01777;
        ck_assert_int_eq(ask(&helper, &request), -EINVAL);
        request.mode = 0;
        for (unsigned operation = 0; operation < 80; operation++) {
                request.operation = operation;
                if (operation < SYSV_EXPORT || operation > SYSV_REMOVE)
                        ck_assert_int_eq(ask(&helper, &request), -EPROTO);
        }
        request.operation = SYSV_REMOVE;
        request.shmid = -1;
        ck_assert_int_eq(ask(&helper, &request), -EINVAL);
        request.shmid = id;
        ck_assert(is_in_kernel(id));
        ck_assert_int_eq(ask(&helper, &request), 0);
        ck_assert(!is_in_kernel(id));
        ck_assert_int_eq(helper_end(&helper), 0);

        /* What is no request: too short, too long, noise of the right size, with descriptors */
        for (size_t size = 1; size <= sizeof(noise); size += sizeof(noise) - 1) {
                helper_start(&helper, NULL);
                ck_assert_int_eq(send(helper.fd, noise, size, 0), (ssize_t) size);
                exit_status = process_wait(helper.pid, helper.pidfd, "shmd-sysv");
                ck_assert_int_eq(WEXITSTATUS(exit_status), 1);
                close(helper.fd);
        }
        helper_start(&helper, NULL);
        for (int byte = 0; byte < 256; byte++) {
                memset(&request, byte, sizeof(request));
                ck_assert_int_lt(ask(&helper, &request), 0);
        }
        descriptors = descriptors_of(helper.pid);
        ck_assert_int_eq(raw_send(&(struct raw) { .fd = helper.fd }, &request, sizeof(request),
                                    (const int[]) { STDIN_FILENO, helper.fd }, 2), 0);
        ck_assert_int_lt(ask_again(&helper), 0);
        ck_assert_int_lt(ask(&helper, &request), 0);
        ck_assert_uint_eq(descriptors_of(helper.pid), descriptors);
        ck_assert_int_eq(helper_end(&helper), 0);
}
END_TEST

/* Nor is it served over anything but a socket for packets. */
START_TEST(test_no_socket) {
        for (int type = 0; type <= SOCK_DGRAM; type++) {
                int pair[2], status;
                pid_t pid;

                ck_assert_int_eq(type == 0 ? pipe(pair) : socketpair(AF_UNIX, type, 0, pair), 0);
                pid = fork();
                if (pid == 0) {
                        (void) dup2(pair[0], STDIN_FILENO);
                        execl(helper_path(), "shmd-sysv", NULL);
                        _exit(127);
                }
                ck_assert_int_eq(waitpid(pid, &status, 0), pid);
                ck_assert_int_eq(WEXITSTATUS(status), 1);
                close(pair[0]);
                close(pair[1]);
        }
}
END_TEST

static void ask_as_stranger(int channel, void *userdata) {
        struct helper helper;

        (void) userdata;
        helper_start(&helper, "root");
        ck_assert_int_eq(WEXITSTATUS(process_wait(helper.pid, helper.pidfd, "shmd-sysv")), 1);
        step_send(channel, 'd');
}

START_TEST(test_stranger) {
        struct child child;

        if (!test_as_root("who may ask shmd-sysv"))
                return;
        child_start_as(&child, &bob, ask_as_stranger, NULL);
        step_expect(child.channel, 'd');
        child_join(&child);
}
END_TEST

/* As its unit has it: a user of its own, with few capabilities. */
static void become_keeper(void *userdata) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = { 0 };
        const unsigned wanted = 1u << CAP_CHOWN | 1u << CAP_FOWNER | 1u << CAP_DAC_OVERRIDE | 1u << CAP_LEASE;

        (void) userdata;
        (void) prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
        identity_assume(&keeper);
        data[0].effective = data[0].permitted = data[0].inheritable = wanted;
        if (syscall(SYS_capset, &header, data) < 0)
                _exit(126);
        for (unsigned i = 0; i < 32; i++)
                if (wanted & 1u << i)
                        (void) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
}

/* The service manager's part: a process for each connection. */
static void listen_for_daemon(int channel, void *userdata) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        (void) userdata;
        ck_assert_uint_lt(strlen(the_daemon.place) + sizeof("/sysv.sock"), sizeof(address.sun_path));
        stpcpy(stpcpy(address.sun_path, the_daemon.place), "/sysv.sock");
        ck_assert_int_eq(bind(fd, (const struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(chown(address.sun_path, 0, keeper.gid), 0);
        ck_assert_int_eq(chmod(address.sun_path, 0660), 0);
        ck_assert_int_eq(listen(fd, 8), 0);
        step_send(channel, 'l');
        for (;;) {
                int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

                ck_assert_int_ge(accepted, 0);
                if (fork() == 0) {
                        (void) dup2(accepted, STDIN_FILENO);
                        execl(helper_path(), "shmd-sysv", NULL);
                        _exit(127);
                }
                close(accepted);
        }
}

static void make_as_alice(int channel, void *userdata) {
        (void) channel;
        (void) userdata;
        connection = client_connect();
        shmd_close(make("brokered", KEY, 0600, 0));
        ck_assert_uint_eq(client_stat(connection, "brokered").uid, alice.uid);
        strcpy(client_map(client_open(connection, "brokered", SHMD_READ_WRITE)), "hers");
        strcpy(attach(shmget(KEY, 0, 0)), "hers");
        ASSERT_OK(connection, shmd_chmod(connection, "brokered", 0640));
        ck_assert_int_ge(shmd_shmget(KEY + 1, PAGE, IPC_CREAT | 0600), 0);
        ASSERT_OK(connection, shmd_set_lifetime(connection, "brokered", SHMD_LIFETIME_PERSIST, 0));
        connection = shmd_disconnect(connection);
}

START_TEST(test_unprivileged_daemon) {
        const struct daemon_options options = { .prepare = become_keeper };
        struct child listener, child;
        char path[256];
        int id, registered;

        if (!can_export("a daemon without rights, and shmd-sysv"))
                return;
        own_namespace();
        daemon_start(&the_daemon, &options);
        setenv("SHMD_SOCKET", the_daemon.socket, 1);
        connection = client_connect();
        ck_assert_int_eq(try_make("none", PAGE, KEY), -EOPNOTSUPP);
        ck_assert_ptr_nonnull(strstr(shmd_error_message(connection), "shmd-sysv"));
        ck_assert_int_eq(shmget(KEY, 0, 0), -1); /* and nothing is left */

        child_start(&listener, listen_for_daemon, NULL);
        step_expect(listener.channel, 'l');
        child_start_as(&child, &alice, make_as_alice, NULL);
        child_join(&child);
        daemon_settle(&the_daemon, 1);
        id = shmid_of("brokered");
        registered = shmget(KEY + 1, 0, 0);
        ck_assert_uint_eq(kernel_says(id).uid, alice.uid);
        ck_assert_uint_eq(kernel_says(id).mode, 0640);
        ck_assert_int_eq(my_segments(), 1);
        ck_assert_str_eq(client_map(client_open(connection, "brokered", 0)), "hers");
        connection = shmd_disconnect(connection);
        connection = client_connect();
        snprintf(path, sizeof(path), "sysv/%d", registered);
        shmd_close(client_open(connection, path, 0)); /* a descriptor of what she made herself */
        ASSERT_OK(connection, shmd_unlink(connection, path));
        ASSERT_OK(connection, shmd_unlink(connection, "brokered"));
        AWAIT_REMOVED(id);
        AWAIT_REMOVED(registered);
        daemon_await_segments(&the_daemon, 0);
        connection = shmd_disconnect(connection);
        snprintf(path, sizeof(path), "%s/sysv.sock", the_daemon.place);
        unlink(path);
        daemon_kill(&the_daemon, SIGTERM);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        child_kill(&listener);
}
END_TEST

/* --- the daemon's end without anybody who keeps segments --- */

START_TEST(test_end) {
        int made, adopted;

        if (!can_export("the daemon's end"))
                return;
        own_namespace();
        daemon_start(&the_daemon, NULL);
        connection = client_connect();
        shmd_close(make("brokered", KEY, 0, 0));
        made = shmid_of("brokered");
        adopted = shmget(KEY + 1, PAGE, IPC_CREAT | 0600);
        ck_assert_int_eq(adopt(connection, "adopted", adopted), 0);
        connection = shmd_disconnect(connection);
        daemon_kill(&the_daemon, SIGTERM);
        ck_assert_int_eq(daemon_wait(&the_daemon), 0);
        ck_assert(!is_in_kernel(made));
        ck_assert(is_in_kernel(adopted));
}
END_TEST

int main(void) {
        Suite *suite = suite_create("sysv");
        TCase *brokered = test_case(suite, "brokered", setup, teardown);
        TCase *registered = test_case(suite, "registered", setup, teardown);
        TCase *restarts = test_case(suite, "restarts", setup_manager, teardown_manager);
        TCase *alone = test_case(suite, "alone", NULL, NULL);

        tcase_add_test(brokered, test_same_memory);
        tcase_add_loop_test(brokered, test_removed_with_the_last, 0, 2);
        tcase_add_test(brokered, test_killed_attacher);
        tcase_add_test(brokered, test_lifetime_holders);
        tcase_add_loop_test(brokered, test_removed_elsewhere, 0, 2);
        tcase_add_test(brokered, test_permissions);
        tcase_add_test(brokered, test_given_away);
        tcase_add_test(brokered, test_limits_of_the_kernel);
        tcase_add_test(brokered, test_removal_forced);
        tcase_add_test(brokered, test_huge_pages);
        tcase_add_test(brokered, test_what_does_not_go_together);
        tcase_add_test(brokered, test_adopted);
        tcase_add_test(brokered, test_replaced_locked);
        tcase_add_test(registered, test_by_prefix);
        tcase_add_loop_test(registered, test_killed_creator, 0, 2);
        tcase_add_test(registered, test_other_namespace);
        tcase_add_test(registered, test_same_number);
        tcase_add_test(registered, test_without_daemon);
        tcase_add_test(registered, test_name_taken);
        tcase_add_test(alone, test_quota);
        tcase_add_loop_test(alone, test_freed_by_kernel, 0, 2);
        tcase_add_loop_test(restarts, test_restart, 0, 2);
        tcase_add_test(restarts, test_restart_locked);
        tcase_add_test(restarts, test_restart_removed);
        tcase_add_test(restarts, test_restart_registered);
        tcase_add_loop_test(alone, test_killed_making, 0, (int) ELEMENTSOF(making_moments));
        tcase_add_test(alone, test_killed_beside_others);
        tcase_add_loop_test(alone, test_killed_removing, 0, (int) ELEMENTSOF(removing_moments));
        tcase_add_test(alone, test_misuse);
        tcase_add_test(alone, test_no_socket);
        tcase_add_test(alone, test_stranger);
        tcase_add_test(alone, test_unprivileged_daemon);
        tcase_add_test(alone, test_end);
        return test_run(suite);
}
