//! Programs, prompts and caches.

use super::{Case, check};

pub(super) const CASES: &[Case] = &[
    (
        "DL3001",
        &["ssh host", "a && top", "x=$(ps aux)", "/bin/mount /x", "for i in 1; do kill 1; done"],
        &["a ssh", "apt-get install vim", "echo `x` ssh", "case $a in ssh) x;; (vim|top) y;; esac"],
    ),
    (
        "DL3003",
        &["cd /x && make", "(cd x; make)", "make; cd x", "bash -ec 'cd x'"],
        &["make -C cd", "echo cd", "pushd x", "a=cd"],
    ),
    (
        "DL3004",
        &["sudo apt-get update", "a || sudo b", "env A=b sudo x", "FROM a:1\nONBUILD RUN sudo x"],
        &["apt-get install sudo", "gosu x y", "echo sudo", "sudoers"],
    ),
    (
        "DL3009",
        &[
            "apt-get update && apt-get install curl",
            "apt-get update; rm -rf /var/log/*",
            "rm -rf /var/lib/apt/lists/* && apt-get update",
            "--mount=type=cache,target=/var/cache/apt apt-get update",
            "--mount=type=bind,target=/var/lib/apt/lists apt-get update",
            "FROM a:1 AS b\nRUN apt-get update\nFROM b\n",
            "apt update",
        ],
        &[
            "apt-get update && apt-get install curl && rm -rf /var/lib/apt/lists/*",
            "apt-get update && rm -r /var/lib/apt",
            "apt-get update && rm -rf /var/lib/{apt,dpkg}/x",
            "apt-get update && find /var/lib/apt/lists -type f -delete",
            "--mount=type=cache,target=/var/lib/apt/lists apt-get update",
            "--mount=type=cache,target=/var/lib/apt --mount=type=cache,target=/var/cache/apt apt-get update",
            "--mount=type=tmpfs,dst=/var/lib/apt/lists/ apt-get update",
            "FROM a:1 AS b\nRUN apt-get update\nFROM c:1\nCOPY --from=b /x /\n",
        ],
    ),
    (
        "DL3014",
        &[
            "apt-get install curl",
            "apt-get -q install curl",
            "apt-get install -f x",
            "apt-get --no-install-recommends install x",
        ],
        &[
            "apt-get install -y curl",
            "apt-get -qq install curl",
            "apt-get -q -q install curl",
            "apt-get -q=2 install curl",
            "apt-get install --yes curl",
            "apt-get --assume-yes install curl",
            "apt-get -fy install x",
            "apt-get update",
        ],
    ),
    (
        "DL3015",
        &[
            "apt-get install -y x",
            "apt-get install -y a && apt-get install --no-install-recommends b",
            "apt-get -y --install-recommends install x",
        ],
        &[
            "apt-get install --no-install-recommends x",
            "apt-get -o APT::Install-Recommends=false install x",
            "apt-get update",
        ],
    ),
    (
        "DL3019",
        &[
            "apk add x",
            "apk add -U x",
            "apk update && apk add x && rm -rf /x",
            "--mount=type=cache,target=/x apk add x",
        ],
        &[
            "apk add --no-cache x",
            "apk --no-cache add x",
            "--mount=type=cache,target=/var/cache/apk apk add x",
            "--mount=type=tmpfs,target=/var/cache apk add x",
            "apk del x",
        ],
    ),
    (
        "DL3027",
        &["apt update", "a && apt install x", "sudo apt update", "[\"apt\", \"update\"]"],
        &["apt-get update", "echo apt", "apt-cache x", "x apt"],
    ),
    (
        "DL3030",
        &[
            "yum install x",
            "yum groupinstall x",
            "yum localinstall x.rpm",
            "yum install x && yum clean all",
        ],
        &["yum install -y x", "yum -y install x", "yum install --assumeyes x", "yum remove x"],
    ),
    (
        "DL3032",
        &[
            "yum install -y x",
            "yum clean all && yum install -y x",
            "yum install -y x && yum clean metadata",
            "yum install -y x && yum clean all && yum install -y y",
        ],
        &[
            "yum install -y x && yum clean all",
            "yum install -y x && rm -rf /var/cache/yum/*",
            "--mount=type=cache,target=/var/cache/yum yum install -y x",
            "yum clean all",
        ],
    ),
    (
        "DL3034",
        &["zypper install x", "zypper rm x", "zypper patch", "zypper in x"],
        &[
            "zypper -n install x",
            "zypper --non-interactive in x",
            "zypper install -y x",
            "zypper install --no-confirm x",
            "zypper ref",
        ],
    ),
    (
        "DL3035",
        &["zypper dist-upgrade", "zypper dup", "zypper -n dup", "a; zypper dup -y"],
        &["zypper update", "zypper in dup-x", "dup", "echo zypper dup"],
    ),
    (
        "DL3036",
        &[
            "zypper install -y x",
            "zypper clean && zypper in x",
            "zypper in x; zypper ref",
            "zypper -n in x",
        ],
        &[
            "zypper install -y x && zypper clean",
            "zypper in x && zypper cc -a",
            "zypper in x && rm -rf /var/cache/zypp",
            "--mount=type=cache,target=/var/cache/zypp zypper in x",
        ],
    ),
    (
        "DL3038",
        &["dnf install x", "microdnf install x", "dnf groupinstall x", "dnf localinstall x.rpm"],
        &["dnf install -y x", "microdnf -y install x", "dnf install --assumeyes x", "dnf remove x"],
    ),
    (
        "DL3040",
        &[
            "dnf install -y x",
            "microdnf install -y x",
            "dnf upgrade -y",
            "dnf clean all && dnf install -y x",
        ],
        &[
            "dnf install -y x && dnf clean all",
            "microdnf install -y x && microdnf clean all",
            "dnf install -y x && rm -rf /var/cache/libdnf5*",
            "--mount=type=cache,target=/var/cache/libdnf5 dnf install -y x",
            "--mount=type=cache,target=/var/cache/dnf dnf install -y x",
        ],
    ),
    (
        "DL3042",
        &[
            "pip install x",
            "python -m pip install x",
            "FROM a:1\nENV PIP_NO_CACHE_DIR=0\nRUN pip install x",
            "FROM a:1 AS b\nENV PIP_NO_CACHE_DIR=1\nFROM c:1\nRUN pip install x",
        ],
        &[
            "pip install --no-cache-dir x",
            "PIP_NO_CACHE_DIR=1 pip install x",
            "export PIP_NO_CACHE_DIR=on && pip install x",
            "FROM a:1\nENV PIP_NO_CACHE_DIR=1\nRUN pip install x",
            "FROM a:1\nARG PIP_NO_CACHE_DIR=1\nRUN pip install x",
            "FROM a:1 AS b\nENV PIP_NO_CACHE_DIR=true\nFROM b\nRUN pip install x",
            "--mount=type=cache,target=/root/.cache/pip pip install x",
            "--mount=type=cache,target=/root/.cache pip install x",
            "pipx install x",
            "pipenv install x",
            "python -m pipx install x",
        ],
    ),
    (
        "DL3046",
        &[
            "useradd -u 123456 x",
            "useradd --uid=123456 x",
            "useradd --uid 123456 x",
            "useradd -mu123456 x",
        ],
        &[
            "useradd -l -u 123456 x",
            "useradd --no-log-init -u 123456 x",
            "useradd -u 12345 x",
            "useradd x",
            "adduser -u 123456 x",
        ],
    ),
    (
        "DL3047",
        &["wget http://x", "wget -O x http://x", "a && wget http://x", "busybox wget http://x"],
        &[
            "wget --progress=dot:giga http://x",
            "wget -q http://x",
            "wget -qO- http://x",
            "wget -nv http://x",
            "wget --no-verbose http://x",
            "wget -o log http://x",
            "wget --version",
            "apt-get install wget",
        ],
    ),
    (
        "DL3060",
        &[
            "yarn install",
            "yarn",
            "yarn cache clean && yarn install",
            "FROM a:1 AS b\nRUN yarn install\nFROM b\n",
        ],
        &[
            "yarn install && yarn cache clean",
            "yarn build",
            "--mount=type=cache,target=/root/.cache/yarn yarn install",
            "FROM a:1 AS b\nRUN yarn install\nFROM c:1\nCOPY --from=b /x /\n",
        ],
    ),
    (
        "DL4001",
        &[
            "wget x; curl y",
            "FROM a:1\nRUN wget x\nRUN curl y\n",
            "RUN curl x\nRUN y\nRUN wget z",
            "FROM a:1\nRUN curl x\nONBUILD RUN wget y\n",
        ],
        &[
            "curl x; curl y",
            "FROM a:1\nRUN wget x\nFROM b:1\nRUN curl y\n",
            "apt-get install curl wget",
            "RUN wget x\nRUN wget y",
        ],
    ),
    (
        "DL4005",
        &[
            "ln -sf /bin/bash /bin/sh",
            "rm /bin/sh && ln -s bash /bin/sh",
            "ln /bin/dash /bin/sh",
            "sudo ln -s x /bin/sh",
        ],
        &["ln -s /bin/sh /x", "echo ln x /bin/sh", "cp /bin/bash /bin/sh", "ln -s a b"],
    ),
    (
        "DL4006",
        &[
            "a | b",
            "curl x |& sh",
            "x=$(a | b)",
            "FROM a:1\nSHELL [\"/bin/bash\", \"-c\"]\nRUN a | b\n",
            "FROM a:1\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nFROM b:1\nRUN a | b\n",
            "RUN <<E\na | b\nE",
        ],
        &[
            "a || b",
            "echo 'a | b' \"c | d\"",
            "[[ $x =~ (a|b) ]] && [[ a || b ]]",
            "case x in a|b) c;; esac",
            "echo $((1 | 2)) # a | b",
            "set -o pipefail && a | b",
            "set -euo pipefail; a | b",
            "[\"bash\", \"-o\", \"pipefail\", \"-c\", \"a | b\"]",
            "FROM a:1\nSHELL [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\"]\nRUN a | b\n",
            "FROM a:1 AS x\nSHELL [\"/bin/ash\", \"-o\", \"pipefail\", \"-c\"]\nFROM x\nRUN a | b\n",
            "FROM a:1\nSHELL [\"pwsh\", \"-Command\"]\nRUN a | b\n",
        ],
    ),
];

#[test]
fn steps() {
    check(CASES);
}
