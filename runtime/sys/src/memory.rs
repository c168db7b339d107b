//! The heap: of a process that is about to fill it, and of one that moves much and keeps little.

/// Asks for so many bytes of heap at once, in huge pages where the kernel gives them: a page at a time
/// costs more than all that is then done with it. Only a hint; where it cannot be followed nothing
/// happens. Also keeps what is freed for what is asked for next, and lets threads that start from now
/// on share this heap: one of their own would grow by small pages.
#[cfg(target_env = "gnu")]
pub fn expect(bytes: usize) {
    const PAGE: usize = 4096;
    const LARGE: libc::c_int = 1 << 30;
    // SAFETY: mallopt changes thresholds of this process' allocator only.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    // SAFETY: malloc takes any size; null is looked for before anything is done with it.
    let block = unsafe { libc::malloc(bytes) };
    if block.is_null() {
        return;
    }
    let start = (block as usize).next_multiple_of(PAGE);
    let end = (block as usize + bytes) / PAGE * PAGE;
    if end > start {
        // SAFETY: the whole pages between lie within the block, which nobody else uses; the advice
        // does not change what they hold. Failure means that nothing was done.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    // SAFETY: `block` came from malloc and is given back once.
    unsafe { libc::free(block) };
}

/// Other allocators are left alone.
#[cfg(not(target_env = "gnu"))]
pub fn expect(_bytes: usize) {}

/// From so many bytes on a block is a mapping of its own.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: libc::c_int = 1 << 20;

/// Has blocks of 1 MiB and more go back to the kernel when they are freed. Left alone, the allocator
/// learns from the first of them to keep all that follow: a thread's heap then stays as large as it ever
/// was, and each layer that is packed finds another one.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: mallopt changes thresholds of this process' allocator only.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * OWN_MAPPING);
    }
}

/// Other allocators are left alone.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_asked_for_later_is_as_before() {
        super::expect(8 << 20);
        super::expect(1);
        let blocks: Vec<Vec<u8>> = (0..64u8).map(|n| vec![n; 100_000]).collect();
        assert!(blocks.iter().zip(0..).all(|(b, n)| b.iter().all(|x| *x == n)));
    }
}
