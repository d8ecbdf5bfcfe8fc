set -eu
r=$1
put() { mkdir -p "$r/$(dirname "$1")"; cat >"$r/$1"; }
echo softmetal | put etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 softmetal\n::1 localhost ip6-localhost ip6-loopback\n' | put etc/hosts
echo 'LABEL=root / ext4 defaults,errors=remount-ro 0 1' | put etc/fstab
printf 'auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n' | put etc/network/interfaces
echo LANG=C.UTF-8 | put etc/default/locale
sed -i 's/^root:[^:]*:/root::/' "$r/etc/shadow"
put etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf <<'F'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
F
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service; do
  chroot "$r" systemctl --quiet disable "$unit"
done
# It repartitions nothing here, but loads the device mapper, which complains.
chroot "$r" systemctl --quiet mask systemd-repart.service
put boot/grub/grub.cfg <<'F'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
menuentry "Debian GNU/Linux" {
  linux /vmlinuz root=LABEL=root ro console=tty0 console=ttyS0,115200 net.ifnames=0
  initrd /initrd.img
}
menuentry "Debian GNU/Linux (recovery mode)" {
  linux /vmlinuz root=LABEL=root ro single console=tty0 console=ttyS0,115200 net.ifnames=0
  initrd /initrd.img
}
F
for target in i386-pc x86_64-efi; do
  to=boot/grub/$target
  mkdir -p "$r/$to"
  cp "$r/usr/lib/grub/$target/"*.mod "$r/usr/lib/grub/$target/"*.lst "$r/$to/"
done
common='part_msdos part_gpt ext2 normal linux serial terminal echo'
chroot "$r" grub-mkimage -O i386-pc -p '(,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img biosdisk $common
chroot "$r" grub-mkimage -O x86_64-efi -p '(,msdos1)/boot/grub' -o /boot/grub/x86_64-efi/core.efi fat $common
chroot "$r" systemd-machine-id-setup >&2
