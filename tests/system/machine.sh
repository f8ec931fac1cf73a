# shellcheck shell=sh
# A machine with a systemd of its own as process 1, in a container over an overlay of the running root, with what was just built
# installed in it; sourced by the scripts beside it, after script.sh.
#
#   machine_need           ends the script as skipped where there can be none
#   machine_make           the root, in $root, to be changed before the start
#   machine_start          boots it; gives up all of it when the script ends, however it does
#   m COMMAND...           runs a command in it, as root
#   as USER COMMAND...     as a user
#   keeps_descriptors      whether its systemd keeps what the service has stored when that has ended
#   await TEXT COMMAND...  repeats a command until it succeeds
#
# The machine has cgroups of its own, below ours: those of two machines at once must not be the same.

# Users of the machine: their uids
# shellcheck disable=SC2034 # used by the scripts
alice=4001 bob=4002

machine_need() {
        [ "$(id -u)" -eq 0 ] || skip_rest "needs root, to boot a systemd in a container"
        [ "${SHMD_TEST_SANITIZERS:-no}" = no ] || skip_rest "a build with sanitizers does not run under the unit's filter of system calls"
        command -v systemd-nspawn >/dev/null || skip_rest "needs systemd-nspawn (package systemd-container)"
        [ -x /lib/systemd/systemd ] || skip_rest "needs systemd"
        for tool in nsenter setpriv setsid; do
                command -v "$tool" >/dev/null || skip_rest "needs $tool (package util-linux)"
        done
}

# --- beginning and end ---

# Tears down what there is of the machine in $1 when it is told to on its standard input, or that ends: when the script has
# ended, be it by SIGKILL.
# A process of its own, in a session of its own.
janitor() {
        # shellcheck disable=SC2016 # variables of the janitor's
        exec setsid sh -c '
                trap "" HUP INT TERM
                members() {
                        while read -r cgroup; do
                                find "$cgroup" -name cgroup.procs -exec cat {} +
                        done <"$1" | sort -u
                }
                read -r _
                cd /
                # All that runs in the cgroups
                while [ -n "$(members "$2")" ]; do
                        kill -KILL $(members "$2")
                        sleep 0.02
                done
                umount -l "$1/root"
                [ -e "$1/root/usr" ] || rm -rf --one-file-system "$1"
                while read -r cgroup; do
                        find "$cgroup" -depth -type d -exec rmdir {} +
                done <"$2"
                rm -f "$2"
                exit 0' janitor "$@" 2>/dev/null
}

machine_make() {
        place=$(mktemp -d /tmp/shmd-machine.XXXXXX) && cgroups=$(mktemp /tmp/shmd-machine-cgroups.XXXXXX) || exit 1
        root=$place/root
        mkfifo "$place/life" || exit 1
        janitor "$place" "$cgroups" <"$place/life" 8>&- >/dev/null &
        janitor=$!
        nspawn=
        exec 8>"$place/life"
        trap 'echo >&8; wait "$janitor" $nspawn 2>/dev/null
                [ "${script_daemon-yes}" = yes ] || rm -rf "$SHMD_TEST_DIRECTORY"' EXIT

        mkdir "$place/upper" "$place/work" "$root"
        mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$root" 2>mount.log ||
                skip_rest "cannot mount an overlay of the running root here: $(cat mount.log)"
        (
                unset MAKEFLAGS MAKELEVEL MFLAGS
                "${MAKE:-make}" -C "$SHMD_TEST_BUILDDIR" install DESTDIR="$root" >install.log 2>&1 8>&-
        ) || fail "make install: $(tail -n 20 install.log)"
        chroot "$root" ldconfig
        [ -e "$root/usr/local/lib/systemd/system/shmd.service" ] || [ -e "$root/lib/systemd/system/shmd.service" ] ||
                skip_rest "this build's prefix is none where systemd looks for units"
        machine_settings
        (exec_in_new_cgroups systemd-nspawn -q -D "$root" --register=no --keep-unit --pipe true </dev/null >nspawn.log 2>&1) ||
                skip_rest "systemd-nspawn does not work here: $(cat nspawn.log)"
}

# Only what is needed is started, whatever services the running root has; and nothing of the machine's own state is used.
machine_settings() {
        rm -f "$root/etc/machine-id" "$root/run/shmd/"*
        rm -rf "$root/var/log/journal" "$root/etc/shmd"
        mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/sysusers.d" "$root/etc/systemd/system"
        printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/shmd-test.conf"
        printf 'u alice %s - /home/alice\nu bob %s - /home/bob\n' "$alice" "$bob" >"$root/etc/sysusers.d/shmd-test.conf"
        chroot "$root" systemd-sysusers 2>sysusers.log || fail "systemd-sysusers: $(cat sysusers.log)"
        for user in alice bob; do
                mkdir -p "$root/home/$user"
                chroot "$root" chown "$user:$user" "/home/$user"
        done
        cat >"$root/etc/systemd/system/shmd-test.target" <<'UNIT'
[Unit]
Requires=sysinit.target
Wants=dbus.socket dbus.service systemd-logind.service
After=sysinit.target dbus.socket systemd-logind.service
UNIT
}

# Puts this process into new cgroups, one in each hierarchy.
enter_cgroups() {
        while IFS=: read -r _ controllers path; do
                case $controllers in
                        '') hierarchy=/sys/fs/cgroup$([ -e /sys/fs/cgroup/cgroup.procs ] || echo /unified) ;;
                        name=*) hierarchy=/sys/fs/cgroup/${controllers#name=} ;;
                        *) hierarchy=/sys/fs/cgroup/$controllers ;;
                esac
                cgroup=${hierarchy}${path%/}/${place##*/}
                if [ ! -e "$cgroup" ]; then
                        mkdir "$cgroup" 2>/dev/null || continue
                        echo "$cgroup" >>"$cgroups"
                fi
                # A cpuset without processors takes nobody.
                if [ -e "$cgroup/cpuset.cpus" ] && [ -e "$cgroup/../cpuset.mems" ]; then
                        cat "$cgroup/../cpuset.cpus" >"$cgroup/cpuset.cpus"
                        cat "$cgroup/../cpuset.mems" >"$cgroup/cpuset.mems"
                fi 2>/dev/null
                sh -c 'echo "$PPID" >"$1/cgroup.procs"' sh "$cgroup" 2>/dev/null
        done </proc/self/cgroup
}

# To be called in a subshell, which becomes the command
exec_in_new_cgroups() {
        exec 8>&-
        enter_cgroups </dev/null
        exec "$@"
}

# machine_start ARGUMENT...: of systemd-nspawn
machine_start() {
        (exec_in_new_cgroups systemd-nspawn -q -D "$root" --machine="${place##*/shmd-}" --register=no --keep-unit -b \
                --console=pipe "$@" systemd.unit=shmd-test.target </dev/null >console.log 2>&1) &
        nspawn=$!
        await "the container" find_leader
        await "the container's boot" is_booted
}

find_leader() {
        kill -0 "$nspawn" 2>/dev/null || fail "systemd-nspawn has ended: $(tail -n 20 console.log)"
        leader=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null)
        leader=${leader%% *}
        [ -n "$leader" ] && [ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ]
}

keeps_descriptors() {
        [ "$(property shmd.service FileDescriptorStorePreserve)" = yes ]
}

is_booted() {
        case $(m systemctl is-system-running) in
                running | degraded) return 0 ;;
        esac
        return 1
}

# --- commands ---

m() {
        nsenter -t "$leader" -a env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
                LC_ALL=C.UTF-8 SYSTEMD_PAGER='' "$@" 7>&- 8>&-
}

as() {
        user=$1
        shift
        m setpriv --reuid="$user" --regid="$user" --init-groups --reset-env "$@"
}

# A deadline is only how long a failing test takes to fail.
await() {
        awaited=$1
        shift
        until=$(($(date +%s) + 30))
        until "$@" >await.log 2>&1; do
                [ "$(date +%s)" -lt "$until" ] || fail "waited in vain for: $awaited ($(tail -n 5 await.log))"
                sleep 0.05
        done
}

# A property of a unit
property() {
        m systemctl show -P "$2" "$1"
}

has_property() {
        [ "$(property "$1" "$2")" = "$3" ]
}

# What the journal has of a unit since it was last cleared
journal() {
        m journalctl --no-pager -q -o "${2:-cat}" -u "$1"
}
