#!/usr/bin/env bash
# Builds a real Kubernetes control plane for the tests: etcd, kube-apiserver, kube-controller-manager, kube-scheduler 1.20.2.
#
#   tests/kubernetes/build_control_plane.sh [--real-pods]
#   tests/kubernetes/build_control_plane.sh --home          says where the binaries are kept, built or not; others ask here
#
# The binaries are kept in $FONDACO_CONTROL_PLANE (default ~/.cache/fondaco/control-plane-1.20.2); where they are already, nothing is done.
# Debian's *source* package of Kubernetes is the whole upstream tree with its vendored modules, so all that is needed is Debian: a Go
# compiler and etcd are unpacked from their packages into a working folder (nothing is installed, no root needed), and the build takes
# about 12 minutes of 2 cores and 2.5 GB of disk, of which 270 MB stay. --real-pods adds kubelet, containerd, runc, CNI plugins and busybox
# (tests/kubernetes/real_pods.sh).
set -euo pipefail

VERSION=1.20.2
SOURCE_PACKAGE=kubernetes
HOME_DIR=${FONDACO_CONTROL_PLANE:-${XDG_CACHE_HOME:-$HOME/.cache}/fondaco/control-plane-$VERSION}
BINARIES=(kube-apiserver kube-controller-manager kube-scheduler)
PACKAGES=(golang-1.19-go golang-1.19-src etcd-server)
[ "${1:-}" = --home ] && { echo "$HOME_DIR"; exit 0; }
[ "${1:-}" = --real-pods ] && { BINARIES+=(kubelet); PACKAGES+=(containerd runc containernetworking-plugins busybox-static); }

mkdir -p "$HOME_DIR/bin"
exec 9>"$HOME_DIR/build.lock"
flock 9 # a second build waits for the first and finds it done

missing=()
for binary in etcd "${BINARIES[@]}"; do [ -x "$HOME_DIR/bin/$binary" ] || missing+=("$binary"); done
[ "${1:-}" = --real-pods ] && [ ! -x "$HOME_DIR/root/bin/busybox" ] && missing+=(containerd)
if [ "${#missing[@]}" = 0 ]; then
    touch "$HOME_DIR/built"
    echo "the control plane is built: $HOME_DIR/bin"
    exit 0
fi
echo "building ${missing[*]} into $HOME_DIR/bin (about 12 minutes on 2 cores, once)"

work=$HOME_DIR/work
rm -rf "$work"
mkdir -p "$work"/apt/{lists,state,cache/archives/partial,parts,prefs} "$work"/{deb,root,src,gopath/src/k8s.io}
trap 'rm -rf "$work"' EXIT

# The mirror is the one this machine uses for Debian 12, unless told otherwise; indexes and packages go to the working folder only.
mirror=${FONDACO_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' | head -n 1)}
[ -n "$mirror" ] || { echo "no Debian 12 (bookworm) mirror is configured here; name one in FONDACO_DEBIAN_MIRROR" >&2; exit 3; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
printf 'deb%s [signed-by='"$keyring"'] %s bookworm main\n' "" "$mirror" "-src" "$mirror" >"$work/apt/sources.list"
cat >"$work/apt/apt.conf" <<X
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "$work/apt/parts";
Dir::Etc::preferencesparts "$work/apt/prefs";
Dir::State "$work/apt/state";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/state/status";
Dir::Cache "$work/apt/cache";
Acquire::Retries "3";
X
: >"$work/apt/state/status"
(
    cd "$work/deb"
    export APT_CONFIG=$work/apt/apt.conf
    apt-get -qq -o APT::Sandbox::User=root update
    apt-get -qq -o APT::Sandbox::User=root source --download-only "$SOURCE_PACKAGE"
    apt-get -qq -o APT::Sandbox::User=root download "${PACKAGES[@]}"
    for package in *.deb; do dpkg -x "$package" "$work/root"; done
    tar -C "$work/src" -xf kubernetes_*"$VERSION".orig.tar.gz
)
install -m 755 "$work/root/usr/bin/etcd" "$HOME_DIR/bin/etcd"
if [ "${1:-}" = --real-pods ]; then rm -rf "$HOME_DIR/root" && cp -a "$work/root" "$HOME_DIR/root"; fi

# GOPATH mode: module mode wants to change go.mod. Debian's Go runs from any folder, by GOROOT.
export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/gocache GO111MODULE=off GOPROXY=off CGO_ENABLED=0
export PATH=$GOROOT/bin:$PATH
ln -sfn "$work/src/kubernetes-$VERSION" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

# The one generated file that the source package lacks.
go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
inputs=$(grep -rl --include='*.go' -E '^// \+k8s:openapi-gen=' pkg cmd plugin staging/src/k8s.io |
    grep -v _test.go | grep -vE 'sample-|/testdata/|code-generator|kube-openapi/test' | xargs -n1 dirname | sort -u |
    sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^\(pkg\|cmd\|plugin\)/#k8s.io/kubernetes/\1/#' | paste -sd,)
"$work/openapi-gen" -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations.list" --output-base "$GOPATH/src" 2>"$work/openapi.log" ||
    { cat "$work/openapi.log" >&2; exit 1; }

# reflect2 1.0.1 walks over maps by a function of the runtime as that was before Go 1.18. Since then it wants to be given the iterator, and
# writes over whatever happens to be in its place: servers that keep custom resources die of it. So it is given one.
(
    cd vendor/github.com/modern-go/reflect2
    sed -i -e '/^\/\/go:linkname mapiterinit/,/^func mapiterinit/d' -e '/^type hiter struct {/,/^}/d' unsafe_link.go
    sed -i 's/\bmapiterinit(type2/iterated(type2/' unsafe_map.go
    cat >iterated.go <<'X'
package reflect2

import "unsafe"

type hiter struct { // runtime.hiter of Go 1.19
	key, value, t, h, buckets, bptr, overflow, oldoverflow unsafe.Pointer
	startBucket                                            uintptr
	offset                                                 uint8
	wrapped                                                bool
	b, i                                                   uint8
	bucket, checkBucket                                    uintptr
}

//go:linkname mapiterinit reflect.mapiterinit
func mapiterinit(rtype, m unsafe.Pointer, it *hiter)

func iterated(rtype, m unsafe.Pointer) *hiter {
	it := new(hiter)
	mapiterinit(rtype, m, it)
	return it
}
X
)

flags="-s -w"
for package in component-base/version client-go/pkg/version; do
    name=k8s.io/kubernetes/vendor/k8s.io/$package
    flags="$flags -X $name.gitVersion=v$VERSION -X $name.gitMajor=1 -X $name.gitMinor=20"
done
mkdir -p "$work/bin"
go build -o "$work/bin/" -ldflags "$flags" "${BINARIES[@]/#/k8s.io/kubernetes/cmd/}"
mv "$work"/bin/* "$HOME_DIR/bin/"
touch "$HOME_DIR/custom-resources" # it can keep them: see above
touch "$HOME_DIR/built" # from now on, tests that cannot start it fail
echo "the control plane is built: $HOME_DIR/bin"
