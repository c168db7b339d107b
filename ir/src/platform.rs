//! Platforms: `os/arch[/variant]`, normalised as containerd's `platforms` package does.

use std::fmt;
use std::str::FromStr;

use crate::fields::{FieldVisitor, KeyFields};

/// A normalised platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`, `windows`, ...
    pub os: String,
    /// GOARCH: `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// `v7`, `v6`, ...; empty when the architecture's default.
    pub variant: String,
    /// Windows build number; empty elsewhere.
    pub os_version: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a platform: {}", self.text, self.why)
    }
}

impl std::error::Error for PlatformError {}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];
const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// `os/arch` without a variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
            os_version: String::new(),
        }
        .normalize()
    }

    /// Linux on amd64.
    pub fn linux_amd64() -> Self {
        Self::new("linux", "amd64")
    }

    /// Well-known other names become Go's; default variants become empty.
    pub fn normalize(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self.variant.to_ascii_lowercase();
        let (arch, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386".to_owned(), String::new()),
            "x86_64" | "x86-64" | "amd64" => {
                ("amd64".to_owned(), if variant == "v1" { String::new() } else { variant })
            }
            "aarch64" | "arm64" => (
                "arm64".to_owned(),
                if matches!(variant.as_str(), "8" | "v8") { String::new() } else { variant },
            ),
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            "arm" => (
                "arm".to_owned(),
                match variant.as_str() {
                    "" | "7" => "v7".to_owned(),
                    "5" | "6" | "8" => format!("v{variant}"),
                    _ => variant,
                },
            ),
            other => (other.to_owned(), variant),
        };
        self.architecture = arch;
        self.variant = variant;
        self
    }

    /// True when something built for `self` runs where `host` runs (same os and architecture; an
    /// amd64 host runs any lower variant, an arm host any lower version).
    pub fn runs_on(&self, host: &Self) -> bool {
        let version = |v: &str, default: u32| {
            v.trim_start_matches('v').parse::<u32>().ok().unwrap_or(default)
        };
        if self.os != host.os {
            return false;
        }
        match (self.architecture.as_str(), host.architecture.as_str()) {
            ("386", "amd64") | ("arm", "arm64") => true,
            ("amd64", "amd64") => version(&self.variant, 1) <= version(&host.variant, 4),
            ("arm", "arm") => version(&self.variant, 7) <= version(&host.variant, 7),
            (a, b) => a == b && (self.variant == host.variant || host.variant.is_empty()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os/arch[/variant]`, `arch` alone (then linux), or a known `os` alone (then amd64).
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let err = |why| PlatformError { text: text.chars().take(64).collect(), why };
        let parts: Vec<&str> = text.split('/').collect();
        let (os_part, rest) = match parts.as_slice() {
            [] | [""] => return Err(err("it is empty")),
            [os, rest @ ..] => (*os, rest),
        };
        let (os, os_version) = match os_part.split_once('(') {
            Some((os, v)) => (os, v.strip_suffix(')').ok_or_else(|| err("`(` without `)`"))?),
            None => (os_part, ""),
        };
        let word = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !word(os) || !rest.iter().all(|p| word(p)) {
            return Err(err("components are made of letters, digits, `_`, `-` and `.`"));
        }
        if os.contains('.') || !(os_version.is_empty() || word(os_version)) {
            return Err(err("an operating system has no `.` but in its version"));
        }
        let make = |os: &str, arch: &str, variant: &str| Self {
            os: os.to_owned(),
            architecture: arch.to_owned(),
            variant: variant.to_owned(),
            os_version: os_version.to_owned(),
        };
        let p = match rest {
            [] => {
                let lower = os.to_ascii_lowercase();
                if KNOWN_OS.contains(&lower.as_str()) || lower == "macos" {
                    make(&lower, "amd64", "")
                } else {
                    let p = make("linux", os, "").normalize();
                    if !KNOWN_ARCH.contains(&p.architecture.as_str()) || !os_version.is_empty() {
                        return Err(err("unknown operating system or architecture"));
                    }
                    p
                }
            }
            [arch] => make(os, arch, ""),
            [arch, variant] => make(os, arch, variant),
            _ => return Err(err("more than three components")),
        };
        Ok(p.normalize())
    }
}

impl KeyFields for Platform {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { os, architecture, variant, os_version } = self;
        v.str("os", os);
        v.str("architecture", architecture);
        v.str("variant", variant);
        v.str("os_version", os_version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("Linux/ARM/6", "linux/arm/v6"),
            ("amd64", "linux/amd64"),
            ("windows", "windows/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
        for bad in [
            "",
            "/",
            "linux/",
            "a b/c",
            "linux/amd64/v1/x",
            "what",
            "linux(1/amd64",
            "a.b/c",
            "windows(1 0)/amd64",
            "arm(1)",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
