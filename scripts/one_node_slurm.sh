#!/usr/bin/env bash
# Installs and starts SLURM on this machine as a cluster of one node (Debian or Ubuntu, as root).
#
#   sudo scripts/one_node_slurm.sh
#   undertow experiment study.yaml --launcher slurm
#
# For trying the launcher only: state lives in /var/spool, there is no accounting, and jobs run as whoever submits.
set -euo pipefail

if [[ $(id -u) -ne 0 ]]; then
    echo "one_node_slurm.sh: it installs packages and starts daemons, so run it as root." >&2
    exit 2
fi
command -v slurmctld >/dev/null && command -v munged >/dev/null || {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends slurm-wlm munge
}

node=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/var/run/slurmctld.pid
SlurmdPidFile=/var/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF

[[ -s /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
chown munge:munge /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
mkdir -p /run/munge
chown munge:munge /run/munge
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged --force
pgrep -x slurmctld >/dev/null || slurmctld
pgrep -x slurmd >/dev/null || slurmd

for _ in $(seq 30); do
    state=$(sinfo --noheader --format=%T 2>/dev/null || true)
    if [[ $state == idle || $state == mixed ]]; then
        sinfo
        exit 0
    fi
    scontrol update NodeName="$node" State=RESUME 2>/dev/null || true
    sleep 1
done
echo "one_node_slurm.sh: the node did not come up. See /var/log/slurm." >&2
exit 1
