//! What is said of a result, where outputs put it: beside an image in its index, or as files among
//! the files.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_image::attestation::{Attested, Claim, Subject};

use rgraph_ir::attest::Provenance;
use rgraph_ir::{BlobDigest, BuildPlan, Platform, Reference};
use rgraph_solver::event::EventKind;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use super::image::Whole;
use super::{Built, ExportError, Exporter};
use crate::attest::provenance::{Digests, Made};
use crate::attest::{packages, purl, sbom};
use crate::tree::TreeError;

/// A statement that waits for its subjects.
pub(super) struct Said {
    /// Its name as a file.
    pub filename: String,
    /// What it says.
    pub claim: Claim,
    /// It is a file among files too.
    pub among_files: bool,
}

/// Without anybody to ask.
struct Nobody;

impl Digests for Nobody {
    fn of(&self, _: &rgraph_ir::op::SourceOp) -> Option<rgraph_ir::attest::Dependency> {
        None
    }
}

impl Exporter<'_> {
    /// Puts together what was asked to be said of each target. `made_of`: the plan, and the platform of
    /// this machine.
    pub(super) fn say_all(
        &self,
        made_of: (&BuildPlan, &Platform),
        built: &mut [Built<'_>],
    ) -> Result<(), ExportError> {
        let wanted = &self.export.attest;
        if !wanted.any() {
            return Ok(());
        }
        let now = jiff::Timestamp::from_nanosecond(i128::from(self.clock.now().0))
            .map_or_else(|_| String::new(), |t| t.to_string());
        let mut told = Vec::new();
        for b in built {
            self.check()?;
            if wanted.sbom {
                b.said.push(self.packages(b, &now)?);
            }
            if let Some(p) = &wanted.provenance {
                let said = self.provenance(b, p, made_of, &now);
                told.push((b.target.platform.clone(), said.claim.predicate.to_string()));
                b.said.push(said);
            }
        }
        self.provenance.get_or_init(|| told);
        Ok(())
    }

    fn provenance(
        &self,
        b: &Built<'_>,
        wanted: &Provenance,
        (plan, builder): (&BuildPlan, &Platform),
        now: &str,
    ) -> Said {
        let digests: &dyn Digests = match self.sources {
            Some(sources) => sources,
            None => &Nobody,
        };
        let made = Made {
            wanted,
            asked: &self.export.asked,
            plan,
            target: b.target,
            digests,
            builder,
            finished: now.to_owned(),
        };
        Said {
            filename: wanted.filename.clone(),
            claim: made.claim(),
            among_files: !wanted.inline_only,
        }
    }

    fn packages(&self, b: &Built<'_>, now: &str) -> Result<Said, ExportError> {
        let found = match b.top {
            None => packages::Inventory::default(),
            Some(top) => packages::look(self.snapshots.mount_read_only(top, None)?.as_fd()),
        };
        for why in &found.unread {
            self.emit(EventKind::Warning { text: format!("list of packages: {why}") });
        }
        self.say(&format!("found {} packages", found.packages.len()));
        let created = match self.export.source_date_epoch.map(jiff::Timestamp::from_second) {
            Some(Ok(epoch)) => epoch.to_string(),
            _ => whole_seconds(now),
        };
        let name = match self.export.tags.first().and_then(|t| t.parse::<Reference>().ok()) {
            Some(r) => r.familiar(),
            None => "image".to_owned(),
        };
        Ok(Said {
            filename: sbom::FILENAME.to_owned(),
            claim: sbom::claim(&found, &name, &created),
            among_files: true,
        })
    }

    /// The statements about an image, as its index holds them.
    pub(super) fn attested(
        &self,
        b: &Built<'_>,
        whole: &Whole,
        names: &[String],
        artifact: bool,
    ) -> Option<Attested> {
        if b.said.is_empty() {
            return None;
        }
        let of = whole.image.descriptor();
        let subjects = subjects(names, &b.target.platform, &of.digest);
        let statements = b
            .said
            .iter()
            .map(|s| (s.claim.predicate_type.clone(), s.claim.statement(&subjects)))
            .collect();
        Some(Attested::new(&of, statements, artifact))
    }

    /// The statements about the files at `root`, by name.
    pub(super) fn statements(
        &self,
        b: &Built<'_>,
        root: Option<BorrowedFd<'_>>,
        prefix: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
        let said: Vec<&Said> = b.said.iter().filter(|s| s.among_files).collect();
        if said.is_empty() {
            return Ok(Vec::new());
        }
        let files = match root {
            Some(root) => self.files(root)?,
            None => Vec::new(),
        };
        let mut out: Vec<(String, Vec<u8>)> = Vec::new();
        for s in said {
            let name = format!("{prefix}{}", s.filename);
            let taken = |root: BorrowedFd<'_>| {
                rustix::fs::statat(root, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            };
            if root.is_some_and(taken) || out.iter().any(|(n, _)| *n == name) {
                return Err(ExportError::StatementName(name));
            }
            out.push((name, s.claim.statement_pretty(&files)));
        }
        Ok(out)
    }

    /// Every plain file below `root` with its digest, sorted by path.
    fn files(&self, root: BorrowedFd<'_>) -> Result<Vec<Subject>, ExportError> {
        let mut out = Vec::new();
        let mut todo = vec![String::new()];
        while let Some(dir) = todo.pop() {
            let at = if dir.is_empty() { "." } else { &dir };
            let failed = |e: rustix::io::Errno| ExportError::Tree(TreeError::io("read", at)(e));
            let fd = self.below(root, at, OFlags::DIRECTORY).map_err(failed)?;
            for e in Dir::read_from(&fd).map_err(failed)? {
                self.check()?;
                let e = e.map_err(failed)?;
                // Such a name cannot be told in JSON.
                let Ok(name) = e.file_name().to_str() else { continue };
                if matches!(name, "." | "..") {
                    continue;
                }
                let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
                let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW);
                match FileType::from_raw_mode(stat.map_err(failed)?.st_mode) {
                    FileType::Directory => todo.push(path),
                    FileType::RegularFile => {
                        let file =
                            self.below(fd.as_fd(), name, OFlags::NONBLOCK).map_err(failed)?;
                        out.push(Subject::sha256(path, &self.digest(file, at)?));
                    }
                    _ => {}
                }
            }
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn below(&self, dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, path, flags, Mode::empty())
    }

    fn digest(&self, file: OwnedFd, at: &str) -> Result<BlobDigest, ExportError> {
        let failed = |source| ExportError::Write { path: at.to_owned(), source };
        let mut file = std::fs::File::from(file);
        let (mut hasher, mut buf) = (Sha256::new(), vec![0; 128 << 10]);
        loop {
            self.check()?;
            match file.read(&mut buf).map_err(failed)? {
                0 => return Ok(BlobDigest::from_bytes(hasher.finalize().into())),
                n => hasher.update(&buf[..n]),
            }
        }
    }
}

/// The image under each of its names; one without a name is called `_`.
fn subjects(names: &[String], platform: &Platform, digest: &BlobDigest) -> Vec<Subject> {
    let parsed: Vec<Reference> = names.iter().filter_map(|n| n.parse().ok()).collect();
    match parsed.is_empty() {
        true => vec![Subject::sha256("_", digest)],
        false => {
            parsed.iter().map(|r| Subject::sha256(purl::image(r, Some(platform)), digest)).collect()
        }
    }
}

/// SPDX takes no fractions of a second.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}
