# Sourced by the scripts beside it: Debian packages from a private apt state, unpacked into a private folder.
# Nothing here installs a package or changes the system's own package lists, sources or drivers.

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
triplet=$(uname -m)-linux-gnu

say() { echo "${0##*/}: $*" >&2; }

# unobtainable MESSAGE…: ends with the exit code that means "cannot be had on this machine".
unobtainable() {
	say "$*"
	exit 3
}

# lock FILE: waits until no other run of these scripts works in the same folder.
lock() {
	mkdir -p "$(dirname "$1")"
	exec 9>"$1"
	flock 9
}

# debian_mirror prints the URI of the Debian archive that this machine's own apt sources name.
debian_mirror() {
	local lists=()
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		[ -f "$f" ] && lists+=("$f")
	done
	[ ${#lists[@]} -gt 0 ] || return 1
	# One-line entries carry the URI after an optional [option block]; deb822 entries have a URIs: field.
	awk '$1 == "deb" { sub(/^deb[ \t]+(\[[^]]*\][ \t]*)?/, ""); print $1 }
	     tolower($1) == "uris:" { for (i = 2; i <= NF; i++) print $i }' "${lists[@]}" |
		grep -E '/debian/?$' | head -n 1 | grep .
}

# apt_open STATE SUITE…: makes STATE a private apt root that knows only SUITE… of the machine's Debian mirror
# and believes that no package is installed, so that a download brings every library a package needs.
apt_open() {
	apt_state=$1
	shift
	command -v apt-get >/dev/null || unobtainable "apt-get is missing: Debian's packages cannot be had here"
	local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	mirror=$(debian_mirror) || unobtainable "no Debian archive among this machine's apt sources (Ubuntu has none)"
	[ -r "$keyring" ] || unobtainable "$keyring is missing (package debian-archive-keyring)"
	mkdir -p "$apt_state"/{lists,cache/archives}/partial "$apt_state"/etc/{parts,preferences}
	: >"$apt_state/status"
	for suite; do
		echo "deb [signed-by=$keyring] $mirror $suite main"
	done >"$apt_state/etc/sources.list"
	# The machine's own configuration stays in force (proxy, certificates) but for its hooks, which touch the system.
	cat >"$apt_state/etc/apt.conf" <<-CONF
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
		#clear DPkg::Pre-Install-Pkgs;
		#clear Acquire::IndexTargets::deb::DEP-11;
		#clear Acquire::IndexTargets::deb::DEP-11-icons;
		#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
		#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
		#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
		#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
		#clear Acquire::IndexTargets::deb-src;
		APT::Sandbox::User "root";
		APT::Install-Recommends "false";
		APT::Get::List-Cleanup "true";
		Acquire::Languages "none";
		Acquire::Retries "2";
		Acquire::http::Timeout "20";
		Dir::Etc::sourcelist "$apt_state/etc/sources.list";
		Dir::Etc::sourceparts "$apt_state/etc/parts";
		Dir::Etc::preferences "$apt_state/etc/none";
		Dir::Etc::preferencesparts "$apt_state/etc/preferences";
		Dir::State::lists "$apt_state/lists";
		Dir::State::status "$apt_state/status";
		Dir::Cache "$apt_state/cache";
		Dir::Log "$apt_state";
		Debug::NoLocking "true";
	CONF
	apt_private update >"$apt_state/update.log" 2>&1 || {
		tail -n 5 "$apt_state/update.log" >&2
		unobtainable "apt-get update failed for $* of $mirror"
	}
}

apt_private() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -c "$apt_state/etc/apt.conf" "$@"; }

# apt_unpack INTO PACKAGE…: unpacks PACKAGE… (NAME, NAME=VERSION or NAME/SUITE) and all they depend on into INTO.
apt_unpack() {
	local into=$1
	shift
	rm -f "$apt_state"/cache/archives/*.deb
	apt_private install --download-only "$@" >"$apt_state/install.log" 2>&1 || {
		tail -n 8 "$apt_state/install.log" >&2
		unobtainable "cannot download $*"
	}
	mkdir -p "$into"
	for deb in "$apt_state"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into" --no-same-owner
		dpkg-deb -W "$deb" >>"$into/packages"
	done
	rm -f "$apt_state"/cache/archives/*.deb
}

# apt_unpack_only INTO PACKAGE…: the same without what the packages depend on.
apt_unpack_only() {
	local into=$1
	shift
	(cd "$apt_state/cache" && rm -f ./*.deb && apt_private download "$@") >"$apt_state/install.log" 2>&1 || {
		tail -n 8 "$apt_state/install.log" >&2
		unobtainable "cannot download $*"
	}
	mkdir -p "$into"
	for deb in "$apt_state"/cache/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into" --no-same-owner
		dpkg-deb -W "$deb" >>"$into/packages"
	done
	rm -f "$apt_state"/cache/*.deb
}
