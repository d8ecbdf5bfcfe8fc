#!/bin/busybox sh
# The first program of a busybox guest: loads the drivers of the hardware there is, runs /autorun if there is one, then
# powers off (with "poweroff" on the kernel's command line) or gives a shell.
export PATH=/sbin:/usr/sbin:/bin:/usr/bin
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin /tmp /root
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s
mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
cat /sys/bus/pci/devices/*/modalias 2>/dev/null | while read -r a; do modprobe -q "$a"; done
cat /sys/bus/virtio/devices/*/modalias /sys/bus/serio/devices/*/modalias 2>/dev/null | while read -r a; do modprobe -q "$a"; done
read up _ < /proc/uptime
echo "GUEST-READY uptime=$up kernel=$(uname -r)"
[ -x /autorun ] && /autorun
grep -qw poweroff /proc/cmdline && poweroff -f
export PS1='guest# ' TERM=linux
# From here on busybox's init does what poweroff, reboot and the end of the shell ask for.
mkdir -p /etc; echo '::respawn:/usr/bin/env HOME=/root cttyhack sh' >/etc/inittab
exec init
