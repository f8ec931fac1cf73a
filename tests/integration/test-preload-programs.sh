#!/bin/sh
# Programs of others on shmd, as far as they are installed: Python, stress-ng, util-linux, Apache, valgrind, PostgreSQL.
# shellcheck source=../support/script.sh
. "${SHMD_TEST_SRCDIR:?run the tests by make check}/tests/support/script.sh"

case ${SHMD_TEST_SANITIZERS:-no} in
        no) ;;
        *) skip_rest "these programs are not made with sanitizers" ;;
esac

watch_events

test_python() {
        for method in fork spawn forkserver; do
                expect 0 shmdctl run --prefix "python-$method/" -- python3 "$SHMD_TEST_SRCDIR/tests/programs/shared-memory.py" "$method"
                await_event "created.*python-$method/$(cat "$out")\$"
        done
        await_nothing
}

test_stress_ng() {
        if ! command -v stress-ng >/dev/null; then
                skip "stress-ng: it is not installed"
                return 0
        fi
        expect 0 shmdctl run --prefix stress/ --lifetime holders -- \
                stress-ng --temp-path . --shm 2 --shm-ops 60 --shm-bytes 4M --verify --metrics-brief
        ! grep -q -E 'fail:|error:' "$err" "$out" || fail "$(cat "$out" "$err")"
        await_event 'created.*stress/'
        await_nothing
        expect 0 shmdctl run --lifetime holders -- \
                stress-ng --temp-path . --shm-sysv 2 --shm-sysv-ops 60 --shm-sysv-bytes 4M --verify --metrics-brief
        ! grep -q -E 'fail:|error:' "$err" "$out" || fail "$(cat "$out" "$err")"
        await_event 'created.*sysv/'
        await_nothing
}

# What the system's own tools make, another of them finds and removes.
test_util_linux() {
        if ! command -v ipcmk >/dev/null || ! command -v ipcrm >/dev/null; then
                skip "ipcmk, ipcrm: they are not installed"
                return 0
        fi
        expect 0 shmdctl run --required -- ipcmk -M 65536 -p 0640
        shmid=$(tr -dc 0-9 <"$out")
        await_event "created.* sysv/$shmid\$"
        expect 0 shmdctl --json show "sysv/$shmid"
        json 'j["size"] == 65536 and j["mode"] == "0640" and j["backing"] == "sysv"'
        expect 0 shmdctl run --required -- ipcrm -m "$shmid"
        await_event "unlinked.* sysv/$shmid\$"
        expect 1 shmdctl run --required -- ipcrm -m "$shmid"
        await_nothing
}

apache_configuration() { # PORT
        modules=/usr/lib/apache2/modules
        cat <<CONFIGURATION
ServerName localhost
ServerRoot $PWD/apache
Listen 127.0.0.1:$1
PidFile pid
DefaultRuntimeDir .
ErrorLog error.log
ScoreBoardFile scoreboard
$([ "$(id -u)" -ne 0 ] || printf 'User www-data\nGroup www-data')
LoadModule mpm_prefork_module $modules/mod_mpm_prefork.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule status_module $modules/mod_status.so
LoadModule slotmem_shm_module $modules/mod_slotmem_shm.so
LoadModule proxy_module $modules/mod_proxy.so
LoadModule proxy_http_module $modules/mod_proxy_http.so
LoadModule proxy_balancer_module $modules/mod_proxy_balancer.so
LoadModule lbmethod_byrequests_module $modules/mod_lbmethod_byrequests.so
<Location /status>
SetHandler server-status
</Location>
<Proxy balancer://itself>
BalancerMember http://127.0.0.1:$1/status
</Proxy>
ProxyPass /balanced balancer://itself
CONFIGURATION
}

fetch() { # URL
        python3 -c 'import sys, urllib.request
sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())' "$1" 2>/dev/null
}

# LIFETIME: one in the background, and a process group of its own, $apache; it answers, through its own balancer too.
start_apache() {
        setsid "$SHMD_TEST_SHMDCTL" run --required --prefix apache/ --lifetime "$1" -- \
                apache2 -f "$PWD/apache/conf" -DFOREGROUND 2>apache/stderr &
        apache=$!
        trap 'kill -9 "-$apache" 2>/dev/null; kill "$watch" 2>/dev/null; wait "$watch"' EXIT
        until fetch "http://127.0.0.1:$port/balanced?auto" >apache/status; do
                kill -0 "$apache" 2>/dev/null || fail "$(cat apache/stderr; tail -n 5 apache/error.log)"
        done
        grep -q '^ServerMPM: prefork' apache/status || fail "$(cat apache/status)"
}

# Its scoreboard and the state of its balancers are shared by all its processes, and made anew over what a killed one has left.
test_apache() {
        if ! command -v apache2 >/dev/null; then
                skip "Apache: it is not installed"
                return 0
        fi
        mkdir apache
        port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        apache_configuration "$port" >apache/conf
        for lifetime in persist holders; do
                start_apache "$lifetime"
                expect 0 shmdctl --json list apache/
                json 'len(j) >= 2 and all(s["holders"] > 0 and s["lifetime"] == "'$lifetime'" for s in j)'
                kill -9 "-$apache"
                wait "$apache" 2>/dev/null
                if [ "$lifetime" = persist ]; then
                        expect 0 shmdctl --json list apache/
                        json 'len(j) >= 2'
                        start_apache "$lifetime"
                        kill "$apache"
                        wait "$apache" || fail "$(cat apache/stderr)"
                fi
                await_nothing
        done
}

# A debugger of others finds nothing in us either: what it would blame is the program.
test_valgrind() {
        if ! command -v valgrind >/dev/null; then
                skip "valgrind: it is not installed"
                return 0
        fi
        for program in posix-producer posix-consumer ftok-writer ftok-reader; do
                expect 0 shmdctl run --prefix valgrind/ --required -- valgrind -q --error-exitcode=9 --leak-check=full \
                        "$SHMD_TEST_BUILDDIR/tests/programs/$program"
                [ ! -s "$err" ] || fail "valgrind: $(cat "$err")"
        done
        await_event 'created.*valgrind/shm-example'
        await_nothing
}

postgres_binary() {
        find /usr/lib/postgresql -name "$1" -path '*/bin/*' 2>/dev/null | sort | tail -n 1
}

as_postgres() {
        setpriv --reuid postgres --regid postgres --init-groups env HOME="$PWD/postgres" "$@"
}

# Starts one in the background
postmaster() {
        as_postgres "$SHMD_TEST_SHMDCTL" run --lifetime holders --prefix postgres/ -- \
                "$postgres" -D "$PWD/postgres/data" -k "$PWD/postgres" \
                -c listen_addresses= -c shared_memory_type=sysv -c dynamic_shared_memory_type=posix -c max_parallel_workers_per_gather=4 \
                -c min_parallel_table_scan_size=0 -c parallel_setup_cost=0 -c parallel_tuple_cost=0 >postgres/log 2>&1 &
        shell=$!
        until as_postgres "$psql" -h "$PWD/postgres" -d postgres -c "" >psql.log 2>&1; do
                kill -0 "$shell" || fail "$(tail -n 5 postgres/log)"
        done
        postmaster=$(head -n 1 postgres/data/postmaster.pid)
}

query() {
        as_postgres "$psql" -h "$PWD/postgres" -d postgres -A -t -c "$1"
}

# Starts a query that does not end; the process that works on it is $backend.
start_backend() {
        : >backend
        as_postgres "$psql" -h "$PWD/postgres" -d postgres -A -t -c 'select pg_backend_pid()' -c 'select pg_sleep(1000)' \
                >backend 2>/dev/null &
        until [ -s backend ]; do :; done
        backend=$(cat backend)
}

attached() { # SHMID: how often; nothing if it is not there
        awk -v id="$1" '$2 == id { print $7 }' /proc/sysvipc/shm
}

test_postgres() {
        postgres=$(postgres_binary postgres) initdb=$(postgres_binary initdb) pgbench=$(postgres_binary pgbench)
        psql=$(postgres_binary psql)
        if [ -z "$postgres" ] || [ -z "$pgbench" ] || [ "$(id -u)" -ne 0 ]; then
                skip "PostgreSQL: it is not installed, or we are not root"
                return 0
        fi
        mkdir postgres && chown postgres: postgres
        expect 0 as_postgres "$SHMD_TEST_SHMDCTL" run --prefix postgres/ -- "$initdb" -D "$PWD/postgres/data" -A trust --no-sync
        postmaster
        await_event 'created.*postgres/PostgreSQL'
        await_event 'created.*sysv/'
        expect 0 as_postgres "$pgbench" -h "$PWD/postgres" -i -q -s 2 postgres
        expect 0 as_postgres "$pgbench" -h "$PWD/postgres" -c 4 -j 2 -t 50 postgres
        printf 'select count(*), sum(abalance) from pgbench_accounts;\n' >parallel.sql
        chmod 644 parallel.sql
        parallel_before=$(grep -c 'created.*postgres/PostgreSQL' events)
        expect 0 as_postgres "$pgbench" -h "$PWD/postgres" -n -c 3 -t 20 -f - postgres <parallel.sql
        [ "$(query 'select count(*) from pgbench_accounts')" = 200000 ] || fail "a parallel query counts wrong"
        query 'explain (analyze) select count(*) from pgbench_accounts' >plan
        grep -q 'Workers Launched: [1-9]' plan || fail "no query was parallel: $(cat plan)"
        until [ "$(grep -c 'created.*postgres/PostgreSQL' events)" -gt $((parallel_before + 20)) ]; do # each of them has its own segment
                kill -0 "$watch" || fail "watch has ended"
        done

        # A backend dies: all are restarted, the shared memory with them
        start_backend
        kill -9 "$backend"
        until grep -q 'all server processes terminated; reinitializing' postgres/log; do :; done
        until [ "$(query 'select count(*) from pgbench_accounts' 2>/dev/null)" = 200000 ]; do :; done

        # One is enough
        as_postgres "$SHMD_TEST_SHMDCTL" run -- "$postgres" -D "$PWD/postgres/data" -k "$PWD/postgres" -c listen_addresses= >second 2>&1 &&
                fail "a second postmaster runs"
        grep -q 'lock file "postmaster.pid" already exists' second || fail "$(cat second)"

        # The postmaster dies, and a backend that does not notice lives: as long as that is attached, the segment stays under
        # its key, which is what keeps a new postmaster from the data.
        start_backend
        shmid=$(awk 'NR == 7 { print $2 }' postgres/data/postmaster.pid)
        kill -STOP "$backend"
        kill -9 "$postmaster"
        wait "$shell" 2>/dev/null
        until [ "$(attached "$shmid")" = 1 ]; do :; done
        as_postgres "$SHMD_TEST_SHMDCTL" run -- "$postgres" -D "$PWD/postgres/data" -k "$PWD/postgres" -c listen_addresses= >second 2>&1 &&
                fail "a postmaster starts beside a backend of another"
        grep -q 'pre-existing shared memory block' second || fail "$(cat second)"
        kill -9 "$backend"
        await_nothing
        [ -z "$(attached "$shmid")" ] || fail "a SysV segment is left"
}

test_python
test_stress_ng
test_util_linux
test_apache
test_valgrind
test_postgres
exit 0
