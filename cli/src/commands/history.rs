//! `rgraph history`: which instruction made which layer.

use rgraph_runtime::images::{self, HistoryRow};

use super::{Context, images_error, print, tag};
use crate::args::HistoryArgs;
use crate::listing::Listing;
use crate::options::HistoryOptions;
use crate::report::CliError;
use crate::session;
use crate::table;

/// Characters of `CREATED BY`.
const CREATED_BY: usize = 45;

/// Runs the command.
pub fn run(cx: &Context, args: HistoryArgs) -> Result<(), CliError> {
    let opts = HistoryOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let failed = |e: images::ImagesError| images_error(&e);
    let top = tag::find(&store, &opts.image)?;
    let all = images::rows(&store, top).map_err(failed)?;
    let image = super::inspect::native(&all);
    let rows = images::history(&store, image).map_err(failed)?;
    let id = if opts.no_trunc { image.config.to_string() } else { image.config.short() };
    let now = jiff::Timestamp::now().as_second();
    print(&text(&rows, &id, &opts, now)?)
}

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

fn text(
    rows: &[HistoryRow],
    id: &str,
    opts: &HistoryOptions,
    now: i64,
) -> Result<Vec<u8>, CliError> {
    // Only the newest row is an image of this store; the others are of whoever built them.
    let ids = std::iter::once(id).chain(std::iter::repeat("<missing>"));
    if opts.quiet {
        let lines = ids.zip(rows).map(|(id, _)| format!("{id}\n"));
        return Ok(lines.collect::<String>().into_bytes());
    }
    let mut list = Listing::new(FIELDS);
    for (id, row) in ids.zip(rows) {
        let by = row.created_by.replace('\t', " ");
        let by = if opts.no_trunc { by } else { table::ellipsis(&by, CREATED_BY) };
        let seconds = row
            .created
            .as_deref()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .map(jiff::Timestamp::as_second);
        let size = if opts.human { table::size(row.size) } else { row.size.to_string() };
        let at = row.created.clone().unwrap_or_else(|| "N/A".to_owned());
        let since = table::created(seconds, now);
        list.row([id.to_owned(), since, at, by, size, row.comment.clone()]);
    }
    let created = if opts.human { "CreatedSince" } else { "CreatedAt" };
    list.draw(&opts.format, &["ID", created, "CreatedBy", "Size", "Comment"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn options(words: &[&str]) -> HistoryOptions {
        let line = ["rgraph", "history"].iter().chain(words).chain(&["x"]).map(Into::into);
        match parse(line).unwrap().command {
            Command::History(a) => HistoryOptions::new(a).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn drawn(words: &[&str]) -> String {
        let row = |by: &str, size| HistoryRow {
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            created_by: by.to_owned(),
            size,
            comment: "buildkit".to_owned(),
        };
        let rows = [row(&"x".repeat(50), 0), row("RUN true", 1000)];
        String::from_utf8(text(&rows, "0123", &options(words), 60).unwrap()).unwrap()
    }

    #[test]
    fn foreign_rows_are_missing_and_long_instructions_cut() {
        insta::assert_snapshot!(drawn(&[]), @r"
        IMAGE       CREATED              CREATED BY                                      SIZE      COMMENT
        0123        About a minute ago   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…   0B        buildkit
        <missing>   About a minute ago   RUN true                                        1kB       buildkit
        ");
        assert_eq!(drawn(&["-q"]), "0123\n<missing>\n");
        assert!(drawn(&["--no-trunc"]).contains(&"x".repeat(50)));
        assert!(drawn(&["-H=false"]).contains("1970-01-01T00:00:00Z"));
    }
}
