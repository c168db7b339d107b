//! How long a Dockerfile of 1,000 to 100,000 lines takes to parse, lower and verify.
//!
//! First the times of each part are printed beside those of a plain pass over the same text (split
//! into lines, sha256), so that numbers of two machines compare; a part that grows faster than its
//! text shows as a ratio that grows. Then divan measures the same with its statistics:
//! `cargo bench -p rgraph-frontend --bench compile`.

#![allow(clippy::print_stdout, reason = "a benchmark's output is its result")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use rgraph_frontend::{Facts, LowerOptions, Lowering, lower, parse};
use rgraph_ir::span::{FileId, SourceFile};
use rgraph_ir::{BuildPlan, verify};
use sha2::{Digest as _, Sha256};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

/// What the lines are.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One chain in which every fifth line is an `ENV`, the rest `LABEL`, `COPY` and `RUN`.
    Mixed,
    /// A `FROM` and four `COPY --from` by turns.
    Stages,
    /// `RUN` only.
    Runs,
    /// `COPY` only.
    Copies,
}

const SHAPES: [Shape; 4] = [Shape::Mixed, Shape::Stages, Shape::Runs, Shape::Copies];

fn text(shape: Shape, lines: usize) -> String {
    let mut s = String::from("FROM alpine:3.20 AS s0\n");
    for i in 1..lines {
        match shape {
            Shape::Mixed => match i % 5 {
                0 => writeln!(s, "ENV V{i}=value-{i}"),
                1 => writeln!(s, "RUN echo {i} $V{}", i - 1),
                2 => writeln!(s, "COPY src/f{i} /dst/"),
                3 => writeln!(s, "LABEL l{i}=\"some text\""),
                _ => writeln!(s, "WORKDIR /w/{i}"),
            },
            // Each stage of five lines reads the one before.
            Shape::Stages if i % 5 == 0 => writeln!(s, "FROM alpine:3.20 AS s{i}"),
            Shape::Stages if i < 5 => writeln!(s, "COPY src/f{i} /in{i}"),
            Shape::Stages => writeln!(s, "COPY --from=s{} /out /in{i}", i / 5 * 5 - 5),
            Shape::Runs => writeln!(s, "RUN make step-{i} && echo done"),
            Shape::Copies => writeln!(s, "COPY src/f{i} /dst/f{i}"),
        }
        .expect("a string takes all");
    }
    s
}

fn source(text: &str) -> SourceFile {
    SourceFile::new(FileId(0), "Dockerfile", text)
}

/// Layers are counted, but an image of this many would be refused.
fn options() -> LowerOptions {
    LowerOptions { max_layers: usize::MAX, ..LowerOptions::default() }
}

fn plan(ast: &rgraph_frontend::ast::Dockerfile) -> BuildPlan {
    match lower(ast, &options(), &Facts::offline()) {
        Ok(Lowering::Done(done)) => done.plan,
        Ok(Lowering::Missing(m)) => panic!("stubs answer everything, not {m:?}"),
        Err(d) => panic!("{:?}", d.first()),
    }
}

/// The least work that looks at every byte and every line.
fn plain(text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for line in text.lines() {
        hash.update(line.as_bytes());
    }
    hash.finalize().into()
}

/// The best of a few runs.
fn best<T>(runs: usize, mut f: impl FnMut() -> T) -> Duration {
    let one = |f: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        black_box(f());
        start.elapsed()
    };
    (0..runs).map(|_| one(&mut f)).min().unwrap_or_default()
}

fn ratios() {
    println!("shape    lines     plain ms  parse ms (x)     lower ms (x)     verify ms (x)");
    for shape in SHAPES {
        for lines in SIZES {
            let text = text(shape, lines);
            let src = source(&text);
            let ast = parse(&src).ast;
            let built = plan(&ast);
            let runs = if lines > 10_000 { 3 } else { 9 };
            let base = best(runs, || plain(&text));
            let cell = |t: Duration| {
                let (ms, x) = (t.as_secs_f64() * 1e3, t.as_secs_f64() / base.as_secs_f64());
                format!("{ms:>9.2} {:<7}", format!("({x:.0})"))
            };
            println!(
                "{:<8} {lines:<8} {:>9.3} {} {} {}",
                format!("{shape:?}"),
                base.as_secs_f64() * 1e3,
                cell(best(runs, || parse(&src))),
                cell(best(runs, || plan(&ast))),
                cell(best(runs, || verify::verify(&built))),
            );
        }
    }
}

fn main() {
    ratios();
    divan::main();
}

#[divan::bench(args = SHAPES)]
fn ten_thousand_lines_to_a_verified_graph(b: Bencher<'_, '_>, shape: Shape) {
    let text = text(shape, 10_000);
    b.bench_local(|| {
        let plan = plan(&parse(&source(&text)).ast);
        verify::verify(&plan).len()
    });
}
