#!/bin/bash
# dpo train on %%{shape}. Made by `dpo cluster slurm`; hand it in with: sbatch THIS_FILE
#
# The job goes on by itself. Before its time is up it saves and ends, and it is queued again; then the same line goes
# on from the newest whole checkpoint of the run. sbatch's own options win over those here: sbatch --time=2:00:00 ...

#SBATCH --job-name=%%{name}
#SBATCH --nodes=%%{num_nodes}
# One task is one process of the run%%{for_each_gpu}.
#SBATCH --ntasks-per-node=%%{processes_per_node}
%%{resources}
%%{place}
#SBATCH --time=%%{time}
# All processes get SIGUSR1 %%{warning_seconds} seconds (and up to 60 more) before the time is up; they finish their step, save and
# end with code %%{stopped}. Without B: in front of it the signal goes to the processes of srun and not to this script, which
# would have to pass it on. Ask for more seconds where a step and a checkpoint take longer.
#SBATCH --signal=USR1@%%{warning_seconds}
# Slurm queues the job again too, when a node fails or when the job has to make room for another.
#SBATCH --requeue
# One log of all starts, in the folder of sbatch: the job's name and number.
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append

set -euo pipefail

%%{setup}
# Where the processes meet: the first node, at a port made of the job's number, so that jobs don't share one.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR="${hosts%%$'\n'*}"
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

# NCCL finds its network by itself. Where it takes the wrong one, name it; INFO has NCCL tell what it does.
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=INFO

# Threads of each process on the CPU, and since Slurm 22.05 srun has to be told its number of CPUs again.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

# The hub's token stays where `hf auth login` has put it; what comes from the hub is shared by all nodes and starts.
export HF_TOKEN_PATH="${HF_TOKEN_PATH:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/token}"
export HF_HOME="${HF_HOME:-$PWD/cache/huggingface}"
# Likewise the log-probs of the reference (dpo/reference in here), so that a start computes them once.
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$PWD/cache}"
# On each node's own disk: compiled kernels, which are many small files.
node_cache="${SLURM_TMPDIR:-/tmp}/dpo-$SLURM_JOB_ID"
export TRITON_CACHE_DIR="$node_cache/triton"
export TORCHINDUCTOR_CACHE_DIR="$node_cache/inductor"

arguments=(
    %%{command}
)

# srun ends all tasks as soon as one fails, for the others would wait for it. Code %%{stopped} is no failure: such a task leaves
# a mark and ends with 0, so that the others come to their own end.
export STOPPED="$PWD/.dpo-stopped-$SLURM_JOB_ID"
rm -f -- "$STOPPED"
# shellcheck disable=SC2016 # the task's own shell puts its variables in
task='
    trap : USR1 TERM INT  # these reach this shell too, and it has to wait for dpo
    code=0
    "$@" || code=$?
    if [ "$code" -eq %%{stopped} ]; then
        touch -- "$STOPPED"
        code=0
    fi
    exit "$code"
'
code=0
srun --kill-on-bad-exit=1 --wait=0 bash -c "$task" task "${arguments[@]}" || code=$?

if [ "$code" -ne 0 ]; then
    rm -f -- "$STOPPED"
    echo "dpo ended with code $code: the job has failed, and is not queued again" >&2
    exit "$code"
fi
if [ ! -e "$STOPPED" ]; then
    exit 0 # trained to the end
fi
rm -f -- "$STOPPED"
if [ "${SLURM_RESTART_COUNT:-0}" -ge %%{max_restarts} ]; then
    echo "stopped with a checkpoint after %%{max_restarts} restarts: not queued again; sbatch goes on from there" >&2
    exit %%{stopped}
fi
if ! scontrol requeue "$SLURM_JOB_ID"; then
    echo "stopped with a checkpoint, and Slurm does not queue the job again; sbatch goes on from there" >&2
    exit %%{stopped}
fi
