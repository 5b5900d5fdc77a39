#!/usr/bin/env bash
# Runs a command beside a Kubernetes with real pods: the tests' control plane, kubelet, containerd and runc, in namespaces of their own.
#
#   tests/kubernetes/build_control_plane.sh --real-pods          once
#   tests/kubernetes/real_pods.sh [COMMAND...]                   default: pytest -m real_pods tests/kubernetes
#   tests/kubernetes/real_pods.sh make test-kubernetes           all that a user's cluster gets, whose stand-in this is
#
# For root on Linux with cgroups v1; opt-in, as a kubelet is a guest with large demands. The command gets KUBECONFIG, and in
# FONDACO_TEST_IMAGE an image that is there.
#
# Everything lives in mount, network and PID namespaces and in one temporary folder: when the command ends, the kernel ends all processes,
# pods included. There is no DNS and no kube-proxy: pods are reached by their addresses.
#
# A kubelet sets some of the kernel's variables; here it sees copies of their files, so the host keeps its own (checked at the end).
set -euo pipefail

cd "$(dirname "$0")/../.."
BUILT=$(tests/kubernetes/build_control_plane.sh --home)
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)}
VARIABLES=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)
PATIENCE_S=120

die() { echo "$*" >&2; exit 3; }
variables() { for name in "${VARIABLES[@]}"; do echo "$name $(cat "/proc/sys/$name")"; done; }

outside() {
    [ "$(id -u)" = 0 ] || die "real pods need root"
    [ -d /sys/fs/cgroup/memory ] || die "real pods need cgroups v1 (this kubelet is of 2021)"
    for file in bin/kubelet root/usr/bin/containerd root/usr/sbin/runc root/bin/busybox; do
        [ -x "$BUILT/$file" ] || die "$BUILT/$file is not built: tests/kubernetes/build_control_plane.sh --real-pods"
    done
    local before work code=0
    before=$(variables)
    work=$(mktemp -d "${TMPDIR:-/tmp}/fondaco-real-pods-XXXXXX")
    local had=()
    for folder in /var/lib/cni /var/lib/kubelet; do [ -e "$folder" ] && had+=("$folder"); done
    mkdir -p /var/lib/cni /var/lib/kubelet # mount points; what is mounted on them is seen inside only
    unshare --mount --net --pid --fork --kill-child --mount-proc "$0" --inside "$work" "$@" || code=$?
    [ "$code" = 0 ] || echo "what kubelet, containerd and the servers said is in $work" >&2
    for folder in /var/lib/cni /var/lib/kubelet; do [[ " ${had[*]:-} " == *" $folder "* ]] || rmdir "$folder"; done
    find /sys/fs/cgroup -mindepth 2 -maxdepth 2 -name kubepods -print0 | while IFS= read -r -d '' group; do
        find "$group" -depth -type d -exec rmdir {} + || true
    done
    if [ "$(variables)" != "$before" ]; then
        echo "variables of the kernel were changed, and are set back" >&2
        while read -r name value; do echo "$value" >"/proc/sys/$name"; done <<<"$before"
    fi
    [ "$code" = 0 ] && rm -rf "$work"
    exit "$code"
}

wait_for() { # WHAT COMMAND...
    local what=$1 end=$((SECONDS + PATIENCE_S))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || die "waited $PATIENCE_S s for $what"
        sleep 0.2
    done
}

inside() {
    local work=$1
    shift
    mkdir -p "$work"/{cni,log,variables,plane}
    mount --make-rprivate /
    mount --bind "$work/log" /var/log
    for folder in /run /var/lib/cni /var/lib/kubelet; do mount -t tmpfs fondaco "$folder"; done
    for name in "${VARIABLES[@]}"; do
        cp "/proc/sys/$name" "$work/variables/${name//\//-}"
        mount --bind "$work/variables/${name//\//-}" "/proc/sys/$name"
    done
    # A machine with one network card, so that the kubelet and the plug-in find a default route.
    ip link set lo up
    ip link add eth0 type veth peer name eth0p
    ip link set eth0p up
    ip addr add 10.200.0.1/24 dev eth0
    ip link set eth0 up
    ip route add default via 10.200.0.1 dev eth0
    export PATH=$BUILT/root/usr/bin:$BUILT/root/usr/sbin:$PATH

    "$PYTHON" -m tests.kubernetes.control_plane --kind controllers "$work/plane" >"$work/plane.log" 2>&1 &
    settings "$work"
    containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
    local ctr=(ctr --address "$work/containerd.sock" --namespace k8s.io)
    wait_for containerd "${ctr[@]}" version
    "$PYTHON" -m tests.kubernetes.real_pods_image "$BUILT/root/bin/busybox" "$work/image.tar"
    "${ctr[@]}" images import --base-name docker.io/local "$work/image.tar" >/dev/null
    wait_for "the control plane" grep -q KUBECONFIG "$work/plane.log"
    export KUBECONFIG=$work/plane/kubeconfig
    "$BUILT/bin/kubelet" --config="$work/kubelet.yaml" --kubeconfig="$KUBECONFIG" --root-dir="$work/kubelet" \
        --cert-dir="$work/kubelet/pki" --node-ip=10.200.0.1 --hostname-override=real --container-runtime=remote \
        --container-runtime-endpoint="unix://$work/containerd.sock" --cgroup-root=/ --cgroups-per-qos=true \
        --enforce-node-allocatable= >"$work/kubelet.log" 2>&1 &
    wait_for "the node to be ready" node_is_ready
    export FONDACO_TEST_IMAGE=docker.io/local/busy:1
    "$@"
}

node_is_ready() {
    "$PYTHON" - <<'X'
import os, pathlib
from tests.kubernetes.api import Api
with Api(pathlib.Path(os.environ["KUBECONFIG"])) as api:
    node = api.get("/api/v1/nodes/real")
conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
raise SystemExit(conditions["Ready"] != "True" or bool(node["spec"].get("taints")))
X
}

settings() { # of containerd, its network plug-in, and kubelet
    local work=$1
    cat >"$work/cni/10-pods.conflist" <<X
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
   "dataDir": "$work/addresses"}}]}
X
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE (in many containers) runc ends with "can't get final child's PID from pipe".
    cat >"$work/containerd.toml" <<X
version = 2
root = "$work/containerd"
state = "$work/containerd-state"
[grpc]
  address = "$work/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$BUILT/root/usr/lib/cni"
    conf_dir = "$work/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
X
    cat >"$work/kubelet.yaml" <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 10.200.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failSwapOn: false
makeIPTablesUtilChains: false
readOnlyPort: 0
healthzPort: 0
clusterDNS: ["10.96.0.10"]
clusterDomain: cluster.local
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "100Mi"}
enableControllerAttachDetach: false
syncFrequency: 10s
X
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
else
    [ "$#" -gt 0 ] || set -- "$PYTHON" -m pytest -m real_pods tests/kubernetes
    outside "$@"
fi
