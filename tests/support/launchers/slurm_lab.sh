#!/usr/bin/env bash
# A real Slurm on this machine: a controller on host n0 and compute nodes n1, n2, ..., each host with
# a network address, processes and shared memory of its own. Files are shared, as by NFS. Each node
# claims 4 CPUs and 2 GPUs that nobody looks for. Needs root; one lab at a time.
#
#   slurm_lab.sh install             Debian's packages
#   slurm_lab.sh up FOLDER NODES     FOLDER holds all that the lab writes
#   slurm_lab.sh on FOLDER HOST COMMAND...   run a command on a host, for example: on FOLDER 0 squeue
#   slurm_lab.sh kill FOLDER HOST    the sudden death of a host; `start FOLDER HOST` brings it back
#   slurm_lab.sh down FOLDER
set -euo pipefail

usage() {
  sed -n '/^#   /s/^# *//p' "$0" >&2
  exit 2
}

[ $# -ge 1 ] || usage
command=$1
shift
if [ "$command" = install ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
    slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge >/dev/null
  exit
fi
[ $# -ge 1 ] || usage
folder=$(realpath -m "$1")
shift
export SLURM_CONF=$folder/slurm.conf
prefix=kilobit-slurm

address() { echo "10.79.0.$((10 + $1))"; }

# Make a host's network: a link to a bridge that is in a namespace of its own.
plug_in() {
  local net=$prefix-n$1
  ip netns add "$net"
  ip link add eth0 netns "$net" type veth peer name "p$1" netns "$prefix-switch"
  ip -n "$prefix-switch" link set "p$1" master bridge up
  ip -n "$net" addr add "$(address "$1")/24" dev eth0
  ip -n "$net" link set lo up
  ip -n "$net" link set eth0 up
  # Ray asks for a route to find its own address.
  ip -n "$net" route add default via 10.79.0.1
}

# enter HOST COMMAND...: become the first process of a host, with a namespace of everything. It
# stays, to take in orphans, and the host ends with it.
enter() {
  local host=$1
  shift
  # shellcheck disable=SC2016  # expanded on the host
  exec nsenter --net="/run/netns/$prefix-n$host" \
    unshare --uts --ipc --mount --pid --fork --kill-child --mount-proc bash -c '
      hostname "$1"
      mount --bind "$2" /etc/hosts
      mount -t tmpfs -o size=2g tmpfs /dev/shm
      shift 2
      "$@" &
      child=$!
      trap "kill -TERM $child" TERM
      status=0
      wait "$child" || status=$?
      while kill -0 "$child" 2>/dev/null; do wait "$child" || status=$?; done
      exit "$status"' bash "n$host" "$folder/hosts" "$@"
}

start() {
  local daemon=(slurmd -D -N "n$1" -f "$SLURM_CONF")
  [ "$1" != 0 ] || daemon=(slurmctld -D -f "$SLURM_CONF")
  setsid "$0" on "$folder" "$1" "${daemon[@]}" >"$folder/n$1.out" 2>&1 </dev/null &
  echo $! >"$folder/n$1.pid"
}

configure() {
  cat <<EOS
ClusterName=kilobit
SlurmctldHost=n0($(address 0))
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16917
SlurmdPort=16918
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=20
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
GresTypes=gpu
EOS
  for i in $(seq "$1"); do
    echo "NodeName=n$i NodeAddr=$(address "$i") CPUs=4 RealMemory=8000 Gres=gpu:h100:2"
  done
  echo "PartitionName=main Nodes=n[1-$1] Default=YES MaxTime=INFINITE PriorityTier=1"
  echo "PartitionName=short Nodes=n[1-$1] MaxTime=10:00 PriorityTier=1"
  echo "PartitionName=urgent Nodes=n[1-$1] MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF"
}

up() {
  local nodes=$1 i
  mkdir -p "$folder/state"
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munged.seed"
  configure "$nodes" >"$SLURM_CONF"
  # Slurm wants a file for each GPU; any device will do.
  echo "Name=gpu Type=h100 File=/dev/tty[10-11]" >"$folder/gres.conf"
  ip netns add "$prefix-switch"
  ip -n "$prefix-switch" link add bridge type bridge
  ip -n "$prefix-switch" link set bridge up
  echo "127.0.0.1 localhost" >"$folder/hosts"
  for i in $(seq 0 "$nodes"); do
    echo "$(address "$i") n$i" >>"$folder/hosts"
    plug_in "$i"
  done
  for i in $(seq 0 "$nodes"); do start "$i"; done
  for _ in {1..60}; do
    [ "$("$0" on "$folder" 0 sinfo -h -p main -t idle -o %D 2>/dev/null)" != "$nodes" ] || return 0
    sleep 0.5
  done
  echo "the nodes did not come: see $folder/*.log" >&2
  exit 1
}

down() {
  local file
  for file in "$folder"/n*.pid "$folder/munged.pid"; do
    [ ! -f "$file" ] || kill -KILL "$(cat "$file")" 2>/dev/null || true
  done
  for net in $(ip netns list | sed -n "s/^\($prefix-[a-z0-9]*\).*/\1/p"); do ip netns del "$net"; done
}

case $command in
  up) up "${1:?NODES}" ;;
  on) enter "$@" ;;
  start) start "${1:?HOST}" ;;
  kill) kill -KILL "$(cat "$folder/n${1:?HOST}.pid")" ;;
  down) down ;;
  *) usage ;;
esac
