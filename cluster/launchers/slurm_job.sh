# ---- Everything above is specific to this job; the rest is the same for all jobs. ----

unset RAY_ADDRESS RAY_TMPDIR RAY_AUTH_TOKEN_PATH
# If this was submitted inside another job, that one's variables are here too, as far as this job has
# none of its own.
[ -n "$array" ] || unset "${!SLURM_ARRAY_@}"
[ -n "$gpus" ] || unset "${!SLURM_GPU@}" "${!SLURM_TRES_PER_@}" CUDA_VISIBLE_DEVICES
# Steps may use all of the job's memory; these variables would limit them.
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
# A new token for each start of the job. It exists only in the environment: not in this file, on a
# command line or in a log.
RAY_AUTH_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
# Detect a dead node after about 3 s instead of 13, a disconnected one after 6 instead of 63.
export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=3

say() { printf 'kilobit, job %s: %s\n' "$SLURM_JOB_ID" "$*" >&2; }

fail() {
  say "$2"
  exit "$1"
}

# private_folder SCRATCH NUMBER: a folder that only this user may enter, for the node with that
# number in this job. It holds sockets, so its name is short. Removes what an earlier start left.
private_folder() {
  rm -rf "$1/kb$SLURM_JOB_ID.$2-"*
  mktemp -d "$1/kb$SLURM_JOB_ID.$2-XXXXXX"
}

# remove FOLDER: retries, because a process may still be writing its last line there.
remove() {
  for _ in {1..20}; do
    ! rm -rf "$1" 2>/dev/null || break
    sleep 0.2
  done
}

# ray_node SCRATCH NUMBER FOLDER OPTION...: run Ray with the job's resources on this node until the
# end of its input. The system chooses every port, so that none is in use. A worker node that Ray
# dropped (a cable, a raylet that died) joins again; the head, whose FOLDER comes from the batch
# script, is not restarted once it has answered.
# shellcheck disable=SC2329  # called in steps
ray_node() {
  local scratch=$1 number=$2 given=$3 folder='' stop='' ray='' tries=0
  shift 3
  setup
  # When Slurm ends a job it signals the steps too. The run needs Ray until all is written; Ray
  # installs its own handlers, so the signal is blocked for it by a mask.
  trap : TERM
  local deaf='import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execvp(sys.argv[1], sys.argv[1:])'
  while [ -z "$stop" ]; do
    folder=${given:-$(private_folder "$scratch" "$number")}
    # Ray makes its folder accessible to all users, so it is put into a private one. `setsid` gives
    # Ray a process group, so that all its processes can be killed together.
    setsid "${container[@]}" python3 -c "$deaf" ray start "$@" --block --disable-usage-stats --temp-dir="$folder/r" \
      --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
      --object-store-memory=536870912 --object-manager-port=0 --node-manager-port=0 \
      --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
      --dashboard-agent-grpc-port=0 --runtime-env-agent-port=0 --metrics-export-port=0 \
      </dev/null >"$folder/start.log" 2>&1 &
    ray=$!
    while [ -z "$stop" ] && kill -0 "$ray" 2>/dev/null; do
      read -r -t 1 _
      # A status above 128 is the timeout of one second; any other is the end of the input.
      [ "$?" -gt 128 ] || stop=1
    done
    if [ -z "$stop" ]; then
      printf 'Ray ended on %s:\n' "$SLURMD_NODENAME" >&2
      tail -n 20 "$folder/start.log" >&2
      # Ray limits its start to 30 s, too short on a busy node, so the head is tried three times.
      tries=$((tries + 1))
      [ -z "$given" ] || { [ ! -s "$given/r/ray_current_cluster" ] && [ "$tries" -lt 3 ]; } || stop=1
    fi
    # Kill it: it has nothing left to write, and a regular stop takes up to 35 s.
    kill -KILL -- "-$ray" 2>/dev/null
    # Suppress the line that bash prints about a killed process.
    { wait "$ray"; } 2>/dev/null
    if [ -n "$stop" ] || [ -z "$given" ]; then remove "$folder"; else remove "$folder/r"; fi
    [ -n "$stop" ] || sleep 3
  done
}

# step NODE ARGUMENT...: start ray_node on NODE.
step() {
  local node=$1
  shift
  # --export: pass the environment even if the job was submitted with --export=NONE. --mem=0: use
  # all memory of the job.
  srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap --export=ALL --mem=0 \
    --cpu-bind=none --job-name=ray --quiet bash -c "$(declare -p container)
      $(declare -f setup private_folder remove ray_node)
      ray_node \"\$@\"" ray_node "$scratch" "$@" <"$folder/leash" 9>&- &
}

# Stop Ray on all nodes, and nothing else: closing the pipe ends the input of this job's steps.
stop_ray() {
  local pid
  exec 9>&-
  for _ in {1..125}; do
    [ -n "$(jobs -rp)" ] || break
    sleep 0.2
  done
  for pid in $(jobs -rp); do kill -KILL "$pid"; done
  [ -z "$folder" ] || remove "$folder"
}

# settle PID: wait for a child despite any number of signals and return its status.
settle() {
  local status
  while :; do
    signalled=''
    wait "$1"
    status=$?
    [ -n "$signalled" ] || return "$status"
  done
}

# Slurm is about to end the job: tell the run, once, to finish writing and stop.
# shellcheck disable=SC2329  # called by traps
on_signal() {
  signalled=1
  [ -z "$ending" ] || return
  ending=$1
  say "$1: the run is told to stop"
  [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null
}

# Print the address at which other nodes reach this one, not Debian's loopback for its own name.
own_address() {
  local name
  if [ -n "$interface" ]; then
    ip -4 -o address show dev "$interface" | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1
    return
  fi
  name=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  { getent ahostsv4 "$name"; hostname -I | tr ' ' '\n'; } |
    sed -n '/^127\./d; s/^\([0-9.][0-9.]*\).*/\1/p' | head -n 1
}

# Succeed while the job is running, and fail once Slurm itself ends or requeues it.
is_running() { [ "$(squeue --noheader --job="$job" --format=%T)" = RUNNING ]; }

job=$SLURM_JOB_ID
# In an array the plain job number of one element means the whole array, so name the element.
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
driver='' ending='' signalled='' folder=''
trap 'on_signal "the time is nearly over"' USR1
trap 'on_signal "Slurm ends the job"' TERM
cd "$SLURM_SUBMIT_DIR" || fail 1 "the folder that it was submitted from is not on this node"
setup || fail 2 "a line of slurm.setup failed"
set -u
"${container[@]}" sh -c 'command -v ray && command -v kilobit' >/dev/null ||
  fail 2 "ray and kilobit are not both found: see slurm.setup and slurm.container"

# Stop Ray whenever the batch script ends, for any reason.
trap stop_ray EXIT
folder=$(private_folder "$scratch" 0) || fail 2 "$scratch can't be written: see slurm.scratch"
mkfifo "$folder/leash"
exec 9<>"$folder/leash"
# If grpc is installed, the head also runs a server for remote clients, by default on a fixed port.
client=$("${container[@]}" python3 -c 'import grpc, socket
s = socket.socket()
s.bind(("", 0))
print(s.getsockname()[1])' 2>/dev/null)
address=$(own_address)
[ -n "$address" ] || fail 2 "no address of ${interface:-this node} is found: see slurm.interface"
step "$SLURMD_NODENAME" 0 "$folder" --head --port=0 --include-dashboard=false --dashboard-port=0 \
  --node-ip-address="$address" ${client:+--ray-client-server-port="$client"}
head=$!
# Ray writes this file as soon as its head answers.
until [ -s "$folder/r/ray_current_cluster" ]; do
  kill -0 "$head" 2>/dev/null || fail 1 "Ray did not start"
  sleep 0.2
done
address=$(<"$folder/r/ray_current_cluster")
number=0
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  [ "$node" != "$SLURMD_NODENAME" ] || continue
  number=$((number + 1))
  step "$node" "$number" '' --address="$address"
done

# Not from SLURM_RESTART_COUNT, which is missing at the first start, so that it may be another job's.
restarts=$(scontrol show job "$job" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')
[ "${restarts:-0}" = 0 ] || set -- --take-over
index=${SLURM_ARRAY_TASK_ID:-0}
[ -z "${outs[index]}" ] || set -- "$@" --out "${outs[index]}"
status=130
if [ -z "$ending" ]; then
  "${container[@]}" kilobit run "${sweeps[index]}" --continue --address "$address" \
    "$@" "${overrides[@]}" 9>&- &
  driver=$!
  # The signal may have come before `driver` was set.
  [ -z "$ending" ] || kill -TERM "$driver" 2>/dev/null
  settle "$driver"
  status=$?
fi
stop_ray
# Status 0 is complete, and status 2 would recur. A requeue ends this script too, so everything is
# written and cleaned up before it.
if [ -n "$ending" ] && [ "$status" != 0 ] && [ "$status" != 2 ]; then
  case $afterwards in
    requeue)
      ! is_running || scontrol requeue "$job" || afterwards=stop
      [ "$afterwards" = stop ] || say "the run is resumed when Slurm restarts the job"
      ;;
    chain) say "the next job of the chain resumes the run" ;;
  esac
  [ "$afterwards" != stop ] || say "submit the same file again to resume the run"
fi
exit "$status"
