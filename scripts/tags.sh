#!/usr/bin/env bash
# tags.sh prints the build tags that this machine can build with: "desktop", the demo's window, where the C headers and
# libraries of X11 are there (scripts/need.sh installs them), and nothing elsewhere.
set -euo pipefail

[ "$(uname -s)" = Linux ] || exit 0
program='#include <GL/gl.h>
#include <X11/Xlib.h>
#include <X11/Xcursor/Xcursor.h>
#include <X11/extensions/XInput2.h>
#include <X11/extensions/Xinerama.h>
#include <X11/extensions/Xrandr.h>
#include <X11/extensions/xf86vmode.h>
int main(void) { return 0; }'
libraries=(-lGL -lX11 -lXrandr -lXxf86vm -lXi -lXcursor -lXinerama)
if cc -x c - -o /dev/null "${libraries[@]}" <<<"$program" 2>/dev/null; then
	echo desktop
fi
