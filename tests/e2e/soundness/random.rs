//! Numbers that look random and come again with their seed.

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to `n`, without `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    /// True once in `n` times.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A short text.
    pub fn text(&mut self) -> String {
        let len = 3 + self.below(40);
        self.text_of(len)
    }

    /// A text of that many bytes.
    pub fn text_of(&mut self, len: usize) -> String {
        (0..len).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }

    /// Permission bits.
    pub fn mode(&mut self) -> u32 {
        [0o644, 0o600, 0o755, 0o640, 0o4755][self.below(5)]
    }
}
