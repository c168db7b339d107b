//! The last lines of a build that succeeded.

use std::io::{self, Write};

use rgraph_ir::Reference;

use super::Counts;
use super::sanitize::harmless;
use crate::table::duration;

/// What a build came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Nanoseconds from start to end.
    pub elapsed: u64,
    /// Steps that ran and that were cached.
    pub counts: Counts,
    /// `sha256:...` of the image; `None`: no image was asked for.
    pub image: Option<String>,
    /// Names it was given.
    pub names: Vec<String>,
    /// Files and folders that were written.
    pub files: Vec<String>,
    /// Warnings, those of the Dockerfile included.
    pub warnings: usize,
}

/// Writes one line for the build and one for each thing it left behind.
pub fn write_summary(s: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let c = &s.counts;
    let mut text = format!("built in {}: {} run, {} cached", duration(s.elapsed), c.ran, c.cached);
    match s.warnings {
        0 => {}
        1 => text.push_str(", 1 warning"),
        n => text.push_str(&format!(", {n} warnings")),
    }
    text.push('\n');
    if let Some(image) = &s.image {
        text.push_str(&format!("image {image}\n"));
    }
    for name in &s.names {
        text.push_str(&format!("named {}\n", harmless(name)));
    }
    for file in &s.files {
        text.push_str(&format!("wrote {}\n", harmless(file)));
    }
    out.write_all(text.as_bytes())
}

/// Writes it in the words of Docker's classic builder.
pub fn write_classic(s: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let mut text = String::new();
    if let Some(image) = &s.image {
        let hex = image.rsplit(':').next().unwrap_or(image);
        text.push_str(&format!("Successfully built {}\n", hex.get(..12).unwrap_or(hex)));
    }
    for name in &s.names {
        let name = name.parse::<Reference>().map_or_else(|_| name.clone(), |r| r.familiar());
        text.push_str(&format!("Successfully tagged {}\n", harmless(&name)));
    }
    for file in &s.files {
        text.push_str(&format!("wrote {}\n", harmless(file)));
    }
    out.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_there_is() {
        let mut out = Vec::new();
        let mut s = Summary { elapsed: 3_210_000_000, ..Summary::default() };
        write_summary(&s, &mut out).unwrap();
        s.counts = Counts { ran: 4, cached: 5, ..Counts::default() };
        s.image = Some("sha256:abc".into());
        s.names = vec!["app:latest".into()];
        s.files = vec!["out.tar".into()];
        s.warnings = 2;
        write_summary(&s, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        built in 3.2s: 0 run, 0 cached
        built in 3.2s: 4 run, 5 cached, 2 warnings
        image sha256:abc
        named app:latest
        wrote out.tar
        ");
        let mut out = Vec::new();
        s.image = Some(format!("sha256:{}", "a1".repeat(32)));
        s.names = vec!["docker.io/library/app:latest".into()];
        write_classic(&s, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        Successfully built a1a1a1a1a1a1
        Successfully tagged app:latest
        wrote out.tar
        ");
    }
}
