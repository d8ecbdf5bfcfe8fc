//! Little-endian fields of byte slices that came from outside: absent, never a panic.

/// The `N` bytes at `at`.
#[must_use]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The 16-bit number at `at`.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// The 32-bit number at `at`.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// The 64-bit number at `at`.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// The `len` bytes at `at`, both numbers from a hostile header.
#[must_use]
pub fn range(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    let end = usize::try_from(at.checked_add(len)?).ok()?;
    bytes.get(start..end)
}

/// A structure under construction: fields are set by their documented offset.
#[derive(Clone, Debug)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Sets the bytes at `at`, which the caller knows to lie inside.
    pub fn set<const N: usize>(&mut self, at: usize, value: [u8; N]) -> &mut Self {
        self.0[at..at + N].copy_from_slice(&value);
        self
    }

    /// Sets a byte.
    pub fn u8(&mut self, at: usize, value: u8) -> &mut Self {
        self.set(at, [value])
    }

    /// Sets a 16-bit number.
    pub fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }

    /// Sets a 32-bit number.
    pub fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }

    /// Sets a 64-bit number.
    pub fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.set(at, value.to_le_bytes())
    }

    /// Sets the byte at `at` so that the bytes of `range` add up to zero.
    pub fn checksum(&mut self, at: usize, range: std::ops::Range<usize>) -> &mut Self {
        self.0[at] = 0;
        self.0[at] = sum(&self.0[range]).wrapping_neg();
        self
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// The sum modulo 256: zero over a table whose checksum is right.
#[must_use]
pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}
