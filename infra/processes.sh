# Starts and stops a group of programs. Sourced by `cluster` and `lambda`.
#
# Expects the variables `self`, the name of the script; `run`, the folder for process ids and logs; and `order`,
# groups of names in the order in which they are stopped.

die() { echo "$self: $*" >&2; exit 1; }

# Splits HEADWATER_LISTEN into `host` and `port`.
take_address() {
    listen=${HEADWATER_LISTEN:-127.0.0.1:8080}
    host=${listen%:*} port=${listen##*:}
    [[ $port =~ ^[0-9]+$ && $port -ge 1 && $port -le 65500 ]] || die "HEADWATER_LISTEN is \"$listen\": it must be HOST:PORT with a port of at most 65500"
}

# Prints the address with this offset from the first port.
at() { echo "127.0.0.1:$((port + $1))"; }

mkdir -p "$run"
rm -f "$run"/*.pid "$run"/*.log
declare -A pids=()

# Starts a program in the background, under a name.
start() {
    local name=$1
    shift
    "$@" >"$run/$name.log" 2>&1 &
    pids[$name]=$!
    echo "${pids[$name]}" >"$run/$name.pid"
}

stop() {
    trap - EXIT INT TERM
    # Whoever read the output may be gone.
    trap '' PIPE
    ((${#pids[@]} == 0)) || echo "$self: stopping" 2>/dev/null || true
    for names in "${order[@]}"; do
        for name in $names; do
            [[ -n ${pids[$name]:-} ]] && kill -TERM "${pids[$name]}" 2>/dev/null || true
        done
        for name in $names; do
            [[ -n ${pids[$name]:-} ]] && wait "${pids[$name]}" 2>/dev/null || true
        done
    done
}
trap stop EXIT
trap 'exit 0' INT TERM

# Waits until an address responds; fails with the last line of the log if the program exits.
await() {
    local name=$1 url=$2
    for _ in $(seq 300); do
        curl -sS -o /dev/null --max-time 2 "$url" 2>/dev/null && return
        kill -0 "${pids[$name]}" 2>/dev/null || die "$name exited: $(tail -n 1 "$run/$name.log")"
        sleep 0.1
    done
    die "$name does not respond at $url: $(tail -n 1 "$run/$name.log")"
}

# Starts simulators unless upstreams are configured, and sets `data` to a description of the data.
start_upstreams() {
    if [[ -n ${HEADWATER_COINBASE_URL+x}${HEADWATER_MASTODON_SERVERS+x} ]]; then
        data='the configured upstreams'
        return
    fi
    start simulators "$bin/headwater" simulate --coinbase-listen "$(at 17)" --mastodon-listen "$(at 18)"
    for _ in $(seq 100); do
        grep -q '^HEADWATER_MASTODON_TOKENS=' "$run/simulators.log" && break
        kill -0 "${pids[simulators]}" 2>/dev/null || die "the simulators exited: $(tail -n 1 "$run/simulators.log")"
        sleep 0.1
    done
    while IFS= read -r setting; do export "${setting?}"; done < <(grep '^HEADWATER_' "$run/simulators.log")
    : "${HEADWATER_COINBASE_RECORD=BTC-USD,ticker/ETH-USD}" "${HEADWATER_MASTODON_RECORD=public}"
    export HEADWATER_COINBASE_RECORD HEADWATER_MASTODON_RECORD HEADWATER_SIMULATED=true
    data='SIMULATED data'
}

# Without tokens, clients cannot be told apart. Then all clients may see everything, as with `headwater up`.
open_rules() {
    if [[ -z ${HEADWATER_JWT_SECRET:-}${HEADWATER_JWKS_URL:-}${HEADWATER_POLICY:-} ]]; then
        export HEADWATER_POLICY=open
    fi
}

# Reports every program that exits, and continues while the programs with the given names run.
watch_over() {
    local name
    while true; do
        for name in "${!pids[@]}"; do
            kill -0 "${pids[$name]}" 2>/dev/null && continue
            echo "$self: $name exited: $(tail -n 1 "$run/$name.log")"
            unset "pids[$name]"
            [[ " $* " != *" $name "* ]] || die "cannot continue without $name"
        done
        sleep 1 &
        wait $! || true
    done
}
