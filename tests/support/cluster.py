"""A Kubernetes of one node, a machine of its own in all but the kernel: tests.support.kubernetes started.

    archive = save_images(engine, "timberline-serve")
    with running_cluster(archive) as cluster:
        cluster.kubectl("apply", "-f", "-", stdin=manifest)
        cluster.helm("upgrade", "--install", "timberline", chart, "--wait")

Everything runs in namespaces of its own for network, mounts and processes. So addresses, routes, firewall
rules, `net.ipv4.ip_forward` and mounts of this machine stay as they are, the ports are free whatever listens
here, and the end of the first process is the end of all: nothing remains but folders of cgroups, which are
removed. What kubelet sets for the whole kernel it finds set already (`TUNABLES`).

It is complete but for what 1.20 does not have (policy/v1, autoscaling/v2, batch/v1 CronJob) and what no
program is there for: nothing enforces a NetworkPolicy, no metrics server, no DNS, no ingress controller, one
node. Services are routed by kube-proxy's rules, ServiceAccounts are checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.clients import CHILDREN, find_client_python
from tests.support.engine import Engine, cache_folder
from tests.support.kubernetes import build_kubernetes

NODE = "192.0.2.1"  # the ranges for documentation: no machine has them
PODS = "192.0.2.128/26"
SERVICES = "198.51.100.0/24"
API = f"https://{NODE}:6443"
CNI_PROGRAMS = "/usr/lib/cni"
CGROUPS = ("timberline", "k8s.io")  # kubelet's own, and containerd's for what kubelet gives no other
HELM = CHILDREN / "helm_command_child.py"
START_S = 120.0
READY_S = 120.0
# Of the whole kernel, and what kubelet wants of it. It sees these values and leaves the kernel's own alone.
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
PAUSE = "localhost/pause:1"
PAUSE_PROGRAM = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { _exit(0); }
int main(void) {
  struct sigaction ended = {.sa_handler = end}, children = {.sa_handler = SIG_IGN};
  sigaction(SIGTERM, &ended, 0), sigaction(SIGINT, &ended, 0), sigaction(SIGCHLD, &children, 0);
  for (;;) pause();
}
"""
# The first process of the namespaces: it makes them a machine, and takes in processes that lost their parent.
INIT = """
set -eu
mount --make-rprivate /
for file in "$1"/tunables/*; do mount --bind "$file" "/proc/sys/$(basename "$file" | tr + /)"; done
# Where the programs write whatever they are told: copies that are gone at the end.
for place in opt usr/libexec var/lib var/log; do
  above=$1/above/$place
  mkdir -p "$above/files" "$above/work"
  mount -t overlay -o "lowerdir=/$place,upperdir=$above/files,workdir=$above/work" overlay "/$place"
done
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add node type veth peer name switch
ip address add "$2/32" dev node
ip link set node up
ip link set switch up
ip route add default dev node src "$2"
echo ready
sleep infinity &
wait $!
"""


class Cluster:
    """A running cluster, the only user of its folder."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Nothing runs yet."""
        self.folder = folder
        self.programs = programs
        self.kubeconfig = folder / "kubeconfig"
        self._init: subprocess.Popen[str] | None = None
        self._parts: dict[str, subprocess.Popen[bytes]] = {}

    # Commands

    def enter(self, *command: str | Path) -> list[str]:
        """``command`` as one that runs in the cluster's network."""
        assert self._init is not None
        # unshare has forked: its child is the first process of the namespaces.
        (child,) = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text("ascii").split()
        return ["nsenter", f"--target={child}", "--net", "--", *map(str, command)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which kubectl and Helm reach this cluster."""
        home = {"HOME": str(self.folder / "home"), "KUBECONFIG": str(self.kubeconfig)}
        return {**os.environ, **home, "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def run(
        self, *command: str | Path, stdin: str = "", check: bool = True, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """A command in the cluster's network; with ``check`` it must end with 0."""
        done = subprocess.run(
            self.enter(*command),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}\n{self.describe()}"
        )
        return done

    def kubectl(self, *words: str | Path, stdin: str = "", check: bool = True) -> str:
        """The output of one command of kubectl."""
        return self.run("kubectl", *words, stdin=stdin, check=check).stdout

    @property
    def commands(self) -> dict[str, list[str]]:
        """What stands for the commands of a user of this cluster; Helm by its SDK."""
        return {
            "helm": [str(find_client_python("helm")), str(HELM)],
            "kubectl": [str(self.programs / "kubectl")],
        }

    def helm(self, *words: str | Path) -> str:
        """The output of one command of Helm."""
        return self.run(*self.commands["helm"], *words, timeout_s=600).stdout

    def get(self, *words: str) -> Any:
        """Objects, read from their JSON; a list's items."""
        found = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found["items"] if found["kind"] == "List" else found

    def wait_until(self, holds: Callable[[], Any], what: str, timeout_s: float = READY_S) -> Any:
        """The first true value of ``holds``; with the cluster's state in the message if there is none."""
        deadline = time.monotonic() + timeout_s
        while not (value := holds()):
            for name, part in self._parts.items():
                assert part.poll() is None, f"{name} ended\n{self.read_log(name)}"
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{self.describe()}"
            time.sleep(0.2)  # polls a fact with a deadline
        return value

    def describe(self) -> str:
        """What somebody wants to see of a cluster where something failed."""
        commands = (
            ["get", "all,jobs,pdb,endpoints", "-A", "-o", "wide"],
            ["get", "events", "-A", "--sort-by=.lastTimestamp"],
        )
        outputs = [
            subprocess.run(
                self.enter("kubectl", *words),
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            for words in commands
        ]
        return "\n".join(done.stdout[-6000:] + done.stderr[-500:] for done in outputs)

    def read_log(self, name: str) -> str:
        """The end of what a part of the cluster has logged."""
        return (self.folder / "logs" / name).read_text("utf-8", "replace")[-4000:]

    # Images

    def ctr(self, *words: str | Path, timeout_s: float = 600.0) -> str:
        """One command of containerd's client, in the namespace of kubelet's images."""
        command = ["ctr", "--address", str(self.folder / "containerd.sock"), "--namespace", "k8s.io"]
        done = subprocess.run(
            [*command, *map(str, words)], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def load(self, archive: Path) -> None:
        """Take over the images of `save_images`, and remove their archive."""
        self.ctr("images", "import", archive)
        archive.unlink()

    # Start and end

    def start(self) -> None:
        """Start everything and wait until the node could run a pod."""
        self._make_namespaces()
        self._write_files()
        certificates = self.folder / "certificates"
        self._spawn(
            "etcd",
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://{NODE}:2379",
            f"--advertise-client-urls=http://{NODE}:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        )
        self._spawn("containerd", "containerd", f"--config={self.folder / 'containerd.toml'}")
        self._spawn(
            "kube-apiserver",
            self.programs / "kube-apiserver",
            f"--etcd-servers=http://{NODE}:2379",
            f"--bind-address={NODE}",
            f"--advertise-address={NODE}",
            "--secure-port=6443",
            "--insecure-port=0",
            f"--cert-dir={certificates}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={certificates / 'accounts.key'}",
            f"--service-account-signing-key-file={certificates / 'accounts.key'}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait_until(
            lambda: self.run("kubectl", "get", "--raw", "/readyz", check=False).stdout == "ok",
            "kube-apiserver is ready",
            START_S,
        )
        self._spawn(
            "kube-controller-manager",
            self.programs / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={certificates / 'apiserver.crt'}",
            f"--service-account-private-key-file={certificates / 'accounts.key'}",
            "--leader-elect=false",
        )
        self._spawn(
            "kube-scheduler",
            self.programs / "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
        )
        self._spawn(
            "kube-proxy",
            self.programs / "kube-proxy",
            f"--config={self.folder / 'kube-proxy.yaml'}",
        )

    def start_node(self) -> None:
        """Start kubelet, which needs the pause image, and wait until it takes pods."""
        self._spawn(
            "kubelet",
            self.programs / "kubelet",
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self.kubeconfig}",
            "--hostname-override=node",
            f"--node-ip={NODE}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.folder / 'containerd.sock'}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet' / 'pki'}",
        )
        ready = ["get", "node", "node", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"]
        self.wait_until(lambda: self.kubectl(*ready, check=False) == "True", "the node is ready")
        accounts = ["get", "serviceaccount", "default", "-o", "jsonpath={.secrets}"]
        self.wait_until(lambda: self.kubectl(*accounts, check=False), "service accounts have tokens")

    def stop(self) -> None:
        """End the first process of the namespaces, and with it all others; nothing remains."""
        if self._init is not None:
            self._init.kill()  # --kill-child: the kernel ends the rest
            self._init.wait(60)
            assert self._init.stdout is not None
            self._init.stdout.close()
            for part in self._parts.values():
                part.wait(60)
        remove_cgroups()

    def _make_namespaces(self) -> None:
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            (hierarchy / CGROUPS[0]).mkdir(exist_ok=True)
        tunables = self.folder / "tunables"
        tunables.mkdir()
        for name, value in TUNABLES.items():
            if Path("/proc/sys", name).exists():
                (tunables / name.replace("/", "+")).write_text(f"{value}\n", "ascii")
        own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # A tests' process that is killed takes its cluster with it.
        command = ["setpriv", "--pdeathsig=KILL", "unshare", *own, "bash", "-c", INIT, "init"]
        self._init = subprocess.Popen(
            [*command, str(self.folder), NODE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == "ready\n", "no namespaces for this user"

    def _spawn(self, name: str, *command: str | Path) -> None:
        enter = self.enter()[:2]
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / name).open("wb") as log:
            self._parts[name] = subprocess.Popen(
                [*enter, "--net", "--mount", "--pid", "--", *map(str, command)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _write_files(self) -> None:
        certificates = self.folder / "certificates"
        certificates.mkdir()
        key = ["openssl", "genrsa", "-out", str(certificates / "accounts.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True)
        token = secrets.token_hex(16)
        (self.folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n', "ascii")
        cluster = {"server": API, "insecure-skip-tls-verify": True}
        context = {"cluster": "tests", "user": "admin", "namespace": "default"}
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        self.kubeconfig.write_text(yaml.safe_dump(configuration), "utf-8")
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(KUBELET), "utf-8")
        proxy = {**KUBE_PROXY, "clientConnection": {"kubeconfig": str(self.kubeconfig)}}
        (self.folder / "kube-proxy.yaml").write_text(yaml.safe_dump(proxy), "utf-8")
        (self.folder / "containerd.toml").write_text(CONTAINERD.replace("FOLDER", str(self.folder)), "utf-8")
        network = {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.folder / "addresses"),
            },
        }
        plugins = {"cniVersion": "0.4.0", "name": "tests", "plugins": [network]}
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "10-tests.conflist").write_text(json.dumps(plugins), "utf-8")


KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": NODE,
    "healthzBindAddress": NODE,
    "readOnlyPort": 0,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": f"/{CGROUPS[0]}",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,
    "imageGCLowThresholdPercent": 99,
    "makeIPTablesUtilChains": False,
    "oomScoreAdj": 0,
    "resolvConf": "",
    "syncFrequency": "5s",  # a changed ConfigMap or Secret is in its pods within seconds
}
KUBE_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "bindAddress": NODE,
    "clusterCIDR": PODS,
    "hostnameOverride": "node",
    "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    "conntrack": {"maxPerCore": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
}
CONTAINERD = """
version = 2
root = "FOLDER/containerd/root"
state = "FOLDER/containerd/state"
[grpc]
  address = "FOLDER/containerd.sock"
[ttrpc]
  address = "FOLDER/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "FOLDER/cni"
"""


def save_images(engine: Engine, *images: str) -> Path:
    """An archive of images, and of the one that each pod's first container has: a program that waits."""
    home = cache_folder() / "cluster"
    home.mkdir(parents=True, exist_ok=True)
    if not engine.has(PAUSE):
        with tempfile.TemporaryDirectory() as made:
            compile_it = ["gcc", "-Os", "-static", "-s", "-x", "c", "-", "-o", f"{made}/pause"]
            subprocess.run(compile_it, input=PAUSE_PROGRAM, text=True, check=True)
            tar = ["tar", "--create", "--owner=0", "--group=0", "--file", "pause.tar", "pause"]
            subprocess.run(tar, cwd=made, check=True)
            engine.docker("import", "--change", 'ENTRYPOINT ["/pause"]', f"{made}/pause.tar", PAUSE)
    engine.docker("save", "-o", home / "images.tar", PAUSE, *images)
    return home / "images.tar"


def remove_cgroups() -> None:
    """Remove the folders of what ran in the cluster; each is empty, as its processes have ended."""
    for name in CGROUPS:
        for root in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            for place, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(OSError):  # somebody else's
                    Path(place).rmdir()


def look_at_machine() -> dict[str, Any]:
    """What a cluster that is not shut in would change: addresses, routes, rules, settings, files, mounts."""
    commands = (["ip", "-o", "address"], ["ip", "route"], ["iptables-save"])
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    lines = [line for done in outputs for line in done.stdout.splitlines() if not line.startswith("#")]
    settings = {name: Path("/proc/sys", name) for name in [*TUNABLES, "net/ipv4/ip_forward"]}
    folders = ("/etc/cni", "/opt/cni", "/usr/libexec/kubernetes", "/var/lib/kubelet", "/var/log/pods")
    ours = str(cache_folder() / "cluster")
    commands_of_all = [path.parent.joinpath("cmdline") for path in Path("/proc").glob("[0-9]*/exe")]
    return {
        "network": [re.sub(r"\[[0-9:]+\]|valid_lft.*", "", line) for line in lines],
        "settings": {name: path.read_text("ascii") for name, path in settings.items() if path.exists()},
        "folders": [name for name in folders if Path(name).exists()],
        "mounts": [
            line for line in Path("/proc/self/mounts").read_text("utf-8").splitlines() if ours in line
        ],
        "processes": [text for path in commands_of_all if ours in (text := read_if_there(path))],
        "cgroups": [str(path) for name in CGROUPS for path in Path("/sys/fs/cgroup").glob(f"*/{name}/*")],
    }


def read_if_there(path: Path) -> str:
    """A file of a process that may end meanwhile."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


@contextlib.contextmanager
def running_cluster(archive: Path) -> Iterator[Cluster]:
    """A cluster with images, ready for pods, until the block ends; waits for another process that has it.

    Raises:
        AssertionError: the machine is not at the end what it was before.
    """
    programs = build_kubernetes()
    home = cache_folder() / "cluster"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_cgroups()  # of one that was killed
        folder = home / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        cluster = Cluster(folder, programs)
        before = look_at_machine()
        try:
            cluster.start()
            cluster.load(archive)
            cluster.start_node()
            yield cluster
        finally:
            cluster.stop()
            after = look_at_machine()
            assert after == before, f"the cluster changed this machine: {before} {after}"
            rest = [str(folder / name) for name in ("containerd", "etcd", "above")]  # the logs stay
            subprocess.run(["rm", "-rf", *rest], check=True)
