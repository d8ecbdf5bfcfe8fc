//! Accesses wider or narrower than the registers they hit.

/// A read of `width` bytes from byte-wide registers: `byte(i)` is the `i`-th of them.
pub(crate) fn read_bytes(width: usize, mut byte: impl FnMut(u64) -> u8) -> u64 {
    (0..width.min(8)).fold(0, |value, i| value | u64::from(byte(i as u64)) << (8 * i))
}

/// A write of `width` bytes to byte-wide registers: `byte(i, value)` stores the `i`-th of them.
pub(crate) fn write_bytes(width: usize, value: u64, mut byte: impl FnMut(u64, u8)) {
    for (i, &b) in value.to_le_bytes().iter().enumerate().take(width) {
        byte(i as u64, b);
    }
}

/// The `width` bytes from byte `offset` on of the 64-bit register `register`.
pub(crate) fn extract(register: u64, offset: u64, width: usize) -> u64 {
    let shifted = register >> (8 * (offset & 7));
    shifted & softmetal_bus::ones(width)
}

/// `register` with the `width` bytes from byte `offset` on replaced by `value`.
pub(crate) fn insert(register: u64, offset: u64, width: usize, value: u64) -> u64 {
    let shift = 8 * (offset & 7);
    let mask = softmetal_bus::ones(width) << shift;
    register & !mask | (value << shift) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_register() {
        assert_eq!(extract(0x1122_3344_5566_7788, 4, 4), 0x1122_3344);
        assert_eq!(extract(0x1122_3344_5566_7788, 7, 2), 0x11);
        assert_eq!(insert(0x1122_3344_5566_7788, 4, 4, 0xaabb_ccdd_eeff), 0xccdd_eeff_5566_7788);
        assert_eq!(insert(0, 0, 8, u64::MAX), u64::MAX);
        assert_eq!(read_bytes(4, |i| 0x10 + i as u8), 0x1312_1110);
    }
}
