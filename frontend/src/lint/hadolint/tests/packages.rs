//! Versions of packages.

use super::{Case, check, found};

pub(super) const CASES: &[Case] = &[
    (
        "DL3008",
        &[
            "apt-get install curl",
            "apt-get update && apt-get -y install curl=7.1 git",
            "sudo apt-get install curl",
            "DEBIAN_FRONTEND=noninteractive apt-get install curl",
            "(apt-get install curl)",
            "if true; then apt-get install curl; fi",
            "sh -c 'apt-get install curl'",
            "[\"apt-get\", \"install\", \"curl\"]",
            "[\"sh\", \"-c\", \"apt-get install curl\"]",
            "apt-get install \\\n  # a comment\n  curl",
            "RUN <<E\nset -e\napt-get install curl\nE",
            "RUN bash <<E\napt-get install curl\nE",
            "RUN <<E bash -s\napt-get install curl\nE",
            "FROM a:1\nONBUILD RUN apt-get install curl",
            "xargs apt-get install curl < list",
        ],
        &[
            "apt-get install curl=7.1",
            "apt-get install curl=${V} 'git=1:2.*'",
            "apt-get install -t stable-backports curl=7.1",
            "apt-get install --target-release=stable curl=7.1",
            "apt-get install -o Acquire::Retries=3 curl=7.1",
            "apt-get install ./x.deb /tmp/y.deb z.deb",
            "apt-get install curl/stable",
            "apt-get update # apt-get install curl",
            "echo apt-get install curl",
            "echo 'x; apt-get install curl'",
            "RUN <<E python3\napt-get install curl\nE",
            "RUN <<E\n#!/usr/bin/env python3\napt-get install curl\nE",
            "RUN cat > x <<E\napt-get install curl\nE",
            "FROM a:1\nSHELL [\"powershell\"]\nRUN apt-get install curl",
        ],
    ),
    (
        "DL3013",
        &[
            "pip install django",
            "pip3 install django==1 flask",
            "python3 -m pip install django",
            "pip install -U pip",
            "pip install git+https://example.com/x/y.git",
            "pip install git+ssh://git@example.com/x/y.git",
            "pip install --index-url https://example.com/simple django",
        ],
        &[
            "pip install django==1.0 'flask>=2' \"x[y]~=3\"",
            "pip install -r requirements.txt",
            "pip install --requirement=requirements.txt",
            "pip install -c constraints.txt django",
            "pip install .",
            "pip install -e . --user",
            "pip install ./dist/x.whl y.tar.gz",
            "pip install git+https://example.com/x/y.git@v1",
            "pip install https://example.com/x/y",
            "pip install --index-url https://example.com django==1",
            "pipenv install django",
            "pip download x",
        ],
    ),
    (
        "DL3016",
        &[
            "npm install express",
            "npm install -g @scope/name",
            "npm i express@4 lodash",
            "npm install git+https://example.com/x.git",
        ],
        &[
            "npm install",
            "npm install express@4.1.0 @scope/name@1",
            "npm install git+https://example.com/x.git#v1",
            "npm install --loglevel verbose express@4",
            "npm install ./x.tgz ../y ~/z .",
            "npm run install express",
            "npm ci",
        ],
    ),
    (
        "DL3018",
        &[
            "apk add curl",
            "apk --no-cache add curl=1 git",
            "apk add --virtual .deps gcc",
            "apk update && apk add -t .deps gcc",
        ],
        &[
            "apk add curl=7.1-r0",
            "apk add 'curl~7' 'git>2'",
            "apk add --virtual .deps gcc=1",
            "apk add -t .deps --repository http://example.com gcc=1",
            "apk add ./x.apk",
            "apk del curl",
        ],
    ),
    (
        "DL3028",
        &[
            "gem install bundler",
            "gem i rake bundler:1",
            "gem install --no-document bundler",
            "gem install -s https://example.com bundler",
        ],
        &[
            "gem install bundler:2.0",
            "gem install bundler -v 2.0",
            "gem install --version=2.0 bundler",
            "gem install nokogiri:1 -- --use-system-libraries x",
            "gem install x.gem",
            "gem update",
        ],
    ),
    (
        "DL3033",
        &[
            "yum install -y httpd",
            "yum install -y python3-devel",
            "yum install -y httpd-2.4 git",
            "yum module install -y php",
        ],
        &[
            "yum install -y httpd-2.4.6",
            "yum install -y httpd-24.el7 x.rpm https://example.com/x.rpm",
            "yum install -y httpd-${V}",
            "yum --enablerepo epel install -y httpd-2",
            "yum module install -y php:8",
            "yum remove httpd",
        ],
    ),
    (
        "DL3037",
        &[
            "zypper install -y httpd",
            "zypper in httpd",
            "zypper -n install httpd=2 git",
            "zypper --non-interactive in git",
        ],
        &[
            "zypper install -y httpd=2.4",
            "zypper in 'httpd>=2' 'git<3'",
            "zypper install x.rpm",
            "zypper remove httpd",
        ],
    ),
    (
        "DL3041",
        &[
            "dnf install -y httpd",
            "microdnf install -y httpd",
            "dnf install -y httpd-2.4 git",
            "dnf module install -y php",
        ],
        &[
            "dnf install -y httpd-2.4",
            "microdnf install -y httpd-$V",
            "dnf module install -y php:8",
            "dnf group install -y x",
            "dnf install -y @development-tools",
        ],
    ),
    (
        "DL3062",
        &[
            "go install example.com/x/y",
            "go install example.com/x/y@latest",
            "go get example.com/x",
            "go run example.com/x arg",
        ],
        &[
            "go install example.com/x/y@v1.2.3",
            "go install -tags a,b example.com/x@v1",
            "go install -ldflags '-s -w' ./cmd/x",
            "go run example.com/x@v1 example.com/y",
            "go run main.go",
            "go install std",
            "go build example.com/x",
        ],
    ),
];

#[test]
fn versions_of_packages() {
    check(CASES);
}

#[test]
fn messages_name_the_packages() {
    for (rule, text, message, help) in [
        (
            "DL3008",
            "apt-get install curl",
            "no version of `curl` is chosen",
            "write `curl=<version>`",
        ),
        (
            "DL3008",
            "apt-get install b a=1 && apt-get install c",
            "no version of `b` and `c` is chosen",
            "write `b=<version>`",
        ),
        (
            "DL3018",
            "apk add a b c d e f g",
            "no version of `a`, `b`, `c`, `d`, `e` and 2 more is chosen",
            "write `a=<version>`",
        ),
        (
            "DL3062",
            "go install a.b/c@latest",
            "no version of `a.b/c@latest` is chosen",
            "write `a.b/c@<version>`",
        ),
    ] {
        let d = &found(rule, text)[0];
        assert_eq!((d.message.as_str(), d.help.as_deref()), (message, Some(help)));
    }
}
