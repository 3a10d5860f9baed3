#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine: loopback only, token authentication, Jobs API.
#   two_nodes.sh up [CPUS]           start a head and a node "second" with CPUS each (default 1)
#   two_nodes.sh add NAME [CPUS]     start one more node
#   two_nodes.sh kill NAME           kill all processes of a node, as if its machine were lost
#   two_nodes.sh status              print one line per node; fail unless the head is running
#   two_nodes.sh env                 print the variables to export, as `up` does
#   two_nodes.sh down                kill all processes that were started here, and no others
# GAPLAB_CLUSTER: folder for token, logs and sockets (default /tmp/gaplab-UID; keep it short).
# GAPLAB_TIMEOUT: seconds to wait for a node to start (default 120).
# PYTHON: an interpreter with Ray installed. Linux only.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
FOLDER=${GAPLAB_CLUSTER:-/tmp/gaplab-$UID}
VENV=$HERE/../../.venv/bin/python
PYTHON=${PYTHON:-$([[ -x $VENV ]] && echo "$VENV" || echo python3)}
OBJECT_STORE=200000000 # bytes per node
TIMEOUT=${GAPLAB_TIMEOUT:-120}

say() { echo "$*" >&2; }
die() { say "two_nodes.sh: $*"; exit 1; }
usage() { sed -n '3,8s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# Every process of a node inherits GAPLAB_NODE. Ray's workers overwrite the memory where /proc finds
# it, but they share a session with processes that keep it; jobs start their own session and keep it.
members() { # NAME: print the process ids of a node, one per line
  local marked sessions
  marked=$(grep -slzxF "GAPLAB_NODE=$FOLDER/$1" /proc/[0-9]*/environ | cut -d/ -f3) || true
  [[ -n $marked ]] || return 0
  sessions=$(ps -o sid= -p "$(paste -sd, <<<"$marked")" | sort -u | tr -d ' ') || true
  [[ -n $sessions ]] || return 0
  ps -o pid=,stat= --sid "$(paste -sd, <<<"$sessions")" | awk '$2 !~ /^Z/ {print $1}' || true
}

names() { if [[ -d $FOLDER/nodes ]]; then ls "$FOLDER/nodes"; fi; }

destroy() { # NAME: kill until no process is left; a process may start another in between
  local turn pids
  for ((turn = 0; turn < 50; turn++)); do
    pids=$(members "$1")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086  # one word per process id
    kill -KILL $pids 2>/dev/null || true
    sleep 0.2
  done
  die "node $1: cannot kill processes $(members "$1" | paste -sd' ')"
}

launch() { # NAME ARGUMENTS: run `ray start` in its own session
  local name=$1
  shift
  [[ $name =~ ^[a-z0-9]{1,16}$ ]] || die "node $name: a name has 1 to 16 characters of a-z and 0-9"
  [[ -z $(members "$name") ]] || die "node $name is already running"
  rm -rf "${FOLDER:?}/nodes/$name" && mkdir -p "$FOLDER/nodes/$name"
  : >"$FOLDER/logs/$name.log"
  # Jobs that call `python` must find the one with Ray.
  env -u RAY_ADDRESS -u RAY_AUTH_TOKEN -u RAY_TMPDIR GAPLAB_NODE="$FOLDER/$name" \
    PATH="$(cd "$(dirname "$(command -v "$PYTHON")")" && pwd):$PATH" \
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$FOLDER/token" \
    setsid "$PYTHON" "$HERE/raylet.py" start --block --disable-usage-stats --node-name="$name" \
    --temp-dir="$FOLDER/nodes/$name" --object-store-memory="$OBJECT_STORE" \
    --dashboard-agent-listen-port=0 "$@" </dev/null >"$FOLDER/logs/$name.log" 2>&1 &
  disown # the shell shall not report its end
}

started() { # NAME PID: wait until the node has started
  local log=$FOLDER/logs/$1.log turn
  for ((turn = 0; turn < TIMEOUT * 5; turn++)); do
    if grep -q 'Ray runtime started' "$log"; then
      say "node $1: started"
      return 0
    fi
    kill -0 "$2" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 5 "$log" >&2
  destroy "$1"
  die "node $1 did not start; see $log"
}

prepare() {
  mkdir -p "$FOLDER"
  [[ -O $FOLDER ]] || die "$FOLDER belongs to another user; choose another GAPLAB_CLUSTER"
  chmod 700 "$FOLDER"
  rm -rf "${FOLDER:?}"/{nodes,logs,token,address,jobs}
  mkdir "$FOLDER/nodes" "$FOLDER/logs"
  (umask 077 && head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$FOLDER/token")
}

free_ports() { # print three free ports
  "$PYTHON" -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in held))'
}

up() { # CPUS
  local gcs dashboard client head
  [[ -z $(for name in $(names); do members "$name"; done) ]] || die "the cluster in $FOLDER is already running; stop it with: two_nodes.sh down"
  prepare
  trap down EXIT # a start that fails or is interrupted leaves no process behind
  trap 'exit 130' INT TERM
  read -r gcs dashboard client < <(free_ports)
  launch head --head --port="$gcs" --node-ip-address=127.0.0.1 --num-cpus="$1" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
    --ray-client-server-port="$client"
  head=$!
  echo "127.0.0.1:$gcs" >"$FOLDER/address"
  echo "http://127.0.0.1:$dashboard" >"$FOLDER/jobs"
  add second "$1" # Ray waits for the head
  started head "$head"
  trap - EXIT INT TERM
  environment
}

add() { # NAME CPUS
  [[ -f $FOLDER/address ]] || die "no cluster is running in $FOLDER; start it with: two_nodes.sh up"
  launch "$1" --address="$(<"$FOLDER/address")" --num-cpus="$2"
  started "$1" $!
}

environment() {
  [[ -f $FOLDER/jobs ]] || die "no cluster is running in $FOLDER; start it with: two_nodes.sh up"
  printf 'export %s=%q\n' RAY_ADDRESS "$(<"$FOLDER/address")" \
    RAY_API_SERVER_ADDRESS "$(<"$FOLDER/jobs")" RAY_AUTH_MODE token \
    RAY_AUTH_TOKEN_PATH "$FOLDER/token" RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER 0
}

status() {
  local name count
  for name in $(names); do
    count=$(members "$name" | wc -l)
    echo "$name $([[ $count -gt 0 ]] && echo "running, $count processes" || echo "not running")"
  done
  [[ -n $(members head) ]]
}

down() {
  trap - EXIT
  local name
  for name in $(names); do destroy "$name"; done
  rm -f "$FOLDER"/{token,address,jobs}
}

case ${1:-} in
  up) [[ $# -le 2 ]] || usage; up "${2:-1}" ;;
  add) [[ $# -eq 2 || $# -eq 3 ]] || usage; add "$2" "${3:-1}" ;;
  kill) [[ $# -eq 2 ]] || usage; [[ -n $(members "$2") ]] || die "no node $2 is running"; destroy "$2" ;;
  status) status ;;
  env) environment ;;
  down) down ;;
  *) usage ;;
esac
