set -eu
r=$1
mkdir -p "$r/etc/initramfs-tools/conf.d" "$r/etc/initramfs-tools/hooks"
echo MODULES=list >"$r/etc/initramfs-tools/conf.d/softmetal"
cat >"$r/etc/initramfs-tools/hooks/softmetal" <<'F'
#!/bin/sh
# The drivers of any disk that this system may find itself on.
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_scsi ata_piix ata_generic ahci nvme sd_mod sr_mod ext4 crc32c_generic crc32c_intel
F
chmod 755 "$r/etc/initramfs-tools/hooks/softmetal"
