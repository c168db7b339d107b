//! Images, copies and configuration; texts and places of findings.

use super::{Case, check, found};
use crate::testkit::source;

pub(super) const CASES: &[Case] = &[
    (
        "DL3002",
        &[
            "FROM a:1\nUSER root\n",
            "FROM a:1\nUSER x\nUSER 0:0\n",
            "FROM a:1 AS b\nUSER root\nFROM c:1\nUSER x\n",
            "FROM a:1\nUSER root:x\n",
        ],
        &[
            "FROM a:1\n",
            "FROM a:1\nUSER root\nUSER x\n",
            "FROM a:1\nUSER 1000:0\n",
            "FROM a:1\nUSER rooty\n",
        ],
    ),
    (
        "DL3006",
        &[
            "FROM debian\n",
            "FROM reg.example.com:5000/x\n",
            "FROM x AS y\nFROM y\n",
            "FROM --platform=$BUILDPLATFORM x\n",
        ],
        &[
            "FROM debian:12\n",
            "FROM scratch\n",
            "FROM a:1 AS b\nFROM b\n",
            "FROM a@sha256:0000000000000000000000000000000000000000000000000000000000000000\n",
            "# x\nARG I=a\nFROM $I\n",
            "# x\nARG R=r\nFROM ${R}/x\n",
        ],
    ),
    (
        "DL3007",
        &[
            "FROM debian:latest\n",
            "FROM r.example.com:5000/x:latest\n",
            "FROM a:1 AS b\nFROM c:latest\n",
            "FROM x:latest AS latest\n",
        ],
        &[
            "FROM debian:12\n",
            "FROM debian\n",
            "FROM a:latest@sha256:0000000000000000000000000000000000000000000000000000000000000000\n",
            "FROM latest\n",
        ],
    ),
    (
        "DL3010",
        &[
            "FROM a:1\nCOPY x.tar.gz /\nRUN tar -xzf /x.tar.gz\n",
            "FROM a:1\nCOPY y x.tgz /t/\nRUN cd /t && tar xf x.tgz\n",
            "FROM a:1\nCOPY y /t/x.tar\nRUN tar --extract --file=/t/x.tar\n",
            "FROM a:1\nCOPY x.tar /\nRUN a\nRUN tar -C /y -x -f x.tar\n",
        ],
        &[
            "FROM a:1\nCOPY x.tar.gz /\nRUN tar -tzf /x.tar.gz\n",
            "FROM a:1\nADD x.tar.gz /\nRUN tar -xzf /y.tar.gz\n",
            "FROM a:1 AS b\nFROM a:1\nCOPY --from=b x.tar /\nRUN tar xf x.tar\n",
            "FROM a:1\nCOPY x.zip /\nRUN unzip x.zip\n",
            "FROM a:1 AS b\nCOPY x.tar /\nFROM a:1\nRUN tar xf x.tar\n",
        ],
    ),
    (
        "DL3020",
        &[
            "FROM a:1\nADD x /\n",
            "FROM a:1\nADD x.tar y /z/\n",
            "FROM a:1\nADD [\"x\", \"/\"]\n",
            "FROM a:1\nADD . /\n",
        ],
        &[
            "FROM a:1\nADD x.tar.gz /\n",
            "FROM a:1\nADD https://example.com/x /\n",
            "FROM a:1\nADD git@example.com:x/y.git /\n",
            "FROM a:1\nCOPY x /\n",
            "FROM a:1\nARG X\nADD $X /\n",
        ],
    ),
    (
        "DL3021",
        &[
            "FROM a:1\nCOPY x y /z\n",
            "FROM a:1\nCOPY [\"x\", \"y\", \"z\"]\n",
            "FROM a:1\nCOPY <<A <<B /z\nA\nB\n",
        ],
        &[
            "FROM a:1\nCOPY x y /z/\n",
            "FROM a:1\nCOPY x y .\n",
            "FROM a:1\nCOPY x /z\n",
            "FROM a:1\nARG D=/d/\nCOPY x y $D\n",
        ],
    ),
    (
        "DL3022",
        &[
            "FROM a:1\nCOPY --from=nginx /x /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=d /x /\n",
            "FROM a:1\nCOPY --from=r.example.com/x /x /\n",
            "FROM a:1 AS nginx2\nFROM c:1\nCOPY --from=nginx /x /\n",
        ],
        &[
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=b /x /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=B /x /\n",
            "FROM a:1\nFROM c:1\nCOPY --from=0 /x /\n",
            "FROM a:1\nCOPY --from=nginx:1.27 /x /\n",
        ],
    ),
    (
        "DL3044",
        &[
            "FROM a:1\nENV A=1 B=$A\n",
            "FROM a:1\nENV A=1 B=${A}/x\n",
            "FROM a:1\nENV B=\"x $A\" A=1\n",
            "FROM a:1\nENV A=x:$A A=y:$A\n",
            "FROM a:1 AS b\nENV A=1\nFROM c:1\nENV A=2 B=$A\n",
        ],
        &[
            "FROM a:1\nENV A=1\nENV B=$A\n",
            "FROM a:1\nENV A=1\nENV A=2 B=$A\n",
            "FROM a:1\nENV A=$A:/x B=1\n",
            "FROM a:1\nENV A=1 B=$AB\n",
            "FROM a:1\nENV A=1 B='$A'\n",
            "FROM a:1\nARG A\nENV A=1 B=$A\n",
            "FROM a:1 AS b\nENV A=1\nFROM b\nENV A=2 B=$A\n",
        ],
    ),
    (
        "DL3045",
        &[
            "FROM a:1\nCOPY x y\n",
            "FROM a:1\nCOPY x .\n",
            "FROM a:1 AS b\nWORKDIR /w\nFROM c:1\nCOPY x y\n",
            "FROM a:1\nCOPY x \"y\"\nWORKDIR /w\n",
        ],
        &[
            "FROM a:1\nCOPY x /y\n",
            "FROM a:1\nWORKDIR /w\nCOPY x y\n",
            "FROM a:1 AS b\nWORKDIR /w\nFROM b\nCOPY x y\n",
            "FROM a:1\nARG D=/d\nCOPY x $D/y\n",
            "FROM a:1\nCOPY x \"/y\"\n",
        ],
    ),
    (
        "DL3048",
        &[
            "FROM a:1\nLABEL A=b\n",
            "FROM a:1\nLABEL a..b=c\n",
            "FROM a:1\nLABEL com.docker.x=y\n",
            "FROM a:1\nLABEL a=b c.=d\n",
        ],
        &[
            "FROM a:1\nLABEL a=B\n",
            "FROM a:1\nLABEL org.opencontainers.image.title=x\n",
            "FROM a:1\nLABEL \"a-b\"=c\n",
            "FROM a:1\nLABEL a.b_c/d1=e\n",
        ],
    ),
    (
        "DL3066",
        &[
            "FROM a:1\nUSER x\n",
            "FROM a:1\nUSER x:1000\n",
            "FROM a:1\nUSER root\n",
            "FROM a:1\nUSER 1000\nUSER y\n",
        ],
        &[
            "FROM a:1\nUSER 1000\n",
            "FROM a:1\nUSER 1000:x\n",
            "FROM a:1\nARG U=1\nUSER $U\n",
            "FROM a:1\n",
        ],
    ),
    (
        "DL3067",
        &[
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=b / /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=b x / /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --link --from=b / /\n",
            "FROM a:1\nCOPY --from=b:1 / /\n",
        ],
        &[
            "FROM a:1 AS b\nFROM scratch\nCOPY --from=b / /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=b /x /\n",
            "FROM a:1 AS b\nFROM c:1\nCOPY --from=b / /x\n",
            "FROM a:1\nCOPY / /\n",
        ],
    ),
];

#[test]
fn images_copies_and_configuration() {
    check(CASES);
}

#[test]
fn findings_point_at_the_word() {
    for (rule, text, at) in [
        ("DL3008", "apt-get update && \\\n    apt-get install curl", "curl"),
        ("DL3004", "a && sudo b", "sudo"),
        ("DL3006", "FROM debian\n", "debian"),
        ("DL3002", "FROM a:1\nUSER root\n", "root"),
        // Not the only one, or within another word: the whole instruction.
        ("DL3004", "sudo a && sudo b", "RUN sudo a && sudo b"),
        ("DL3008", "apt-get install lib-x && echo lib-x-y", "lib-x"),
        ("DL3008", "apt-get install b=1 a c", "a"),
    ] {
        let d = &found(rule, text)[0];
        let file = source(&format!("# check=experimental={rule}\n{}", super::file(text)));
        let span = d.span().unwrap();
        assert_eq!(&file.text[span.start as usize..span.end as usize], at, "{text}");
    }
}

#[test]
fn texts_of_findings() {
    let all: Vec<String> = CASES
        .iter()
        .chain(super::steps::CASES)
        .map(|(rule, fires, _)| {
            let d = &found(rule, fires[0])[0];
            assert_eq!(d.url.map(|u| u.rsplit('/').next()), Some(Some(*rule)));
            format!("{rule}: {}; {}", d.message, d.help.as_deref().unwrap_or_default())
        })
        .collect();
    assert_eq!(all.join("\n") + "\n", include_str!("texts.txt"));
}
