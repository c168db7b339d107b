//! What machine a program is for, by its first bytes (System V ABI, "ELF Header").

/// As much of a program as [`foreign`] looks at, bytes.
pub(super) const HEAD: usize = 20;

/// The machine of an ELF file, when this one does not run such files itself.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    let &[0x7f, b'E', b'L', b'F', class, order, ..] = head else { return None };
    let machine: [u8; 2] = head.get(18..HEAD)?.try_into().ok()?;
    let machine = match order {
        1 => u16::from_le_bytes(machine),
        2 => u16::from_be_bytes(machine),
        _ => return None,
    };
    // The kernel's name, and the platform's.
    let (own, name) = match (machine, class, order) {
        (3, ..) => ("x86", "386"),
        (8, 2, 1) => ("mips64", "mips64le"),
        (21, _, 1) => ("powerpc64", "ppc64le"),
        (22, ..) => ("s390x", "s390x"),
        (40, ..) => ("arm", "arm"),
        (62, ..) => ("x86_64", "amd64"),
        (183, ..) => ("aarch64", "arm64"),
        (243, 2, _) => ("riscv64", "riscv64"),
        (258, ..) => ("loongarch64", "loong64"),
        _ => ("", "another kind of machine"),
    };
    let here = std::env::consts::ARCH;
    let runs = own == here || (own == "x86" && here == "x86_64");
    (!runs).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines() {
        let head = |class: u8, order: u8, machine: [u8; 2]| {
            let mut head = vec![0x7f, b'E', b'L', b'F', class, order];
            head.resize(18, 0);
            head.extend(machine);
            head
        };
        let own = head(2, 1, if cfg!(target_arch = "x86_64") { [62, 0] } else { [183, 0] });
        for (head, want) in [
            (own, None),
            (head(2, 2, [0, 22]), Some("s390x")),
            (head(2, 1, [243, 0]), Some("riscv64")),
            (head(2, 1, [2, 1]), Some("loong64")),
            (head(1, 1, [99, 0]), Some("another kind of machine")),
            (head(2, 3, [62, 0]), None),
            (b"\x7fELF".to_vec(), None),
            (b"\x7fELF\x02\x01".to_vec(), None),
            (b"#!/bin/sh\n".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(foreign(&head), want, "{head:?}");
        }
    }
}
