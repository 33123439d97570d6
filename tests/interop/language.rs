//! The languages of the table: what of each is shown, and how it runs.

use super::toolbox::{Recipe, Words};

/// Most lines of code of a snippet.
pub(super) const LINES_MAX: usize = 40;

/// A language and its official client.
#[derive(Debug)]
pub(super) struct Language {
    /// What people call it.
    pub(super) name: &'static str,
    /// Its client and where that comes from.
    pub(super) client: &'static str,
    /// How the page marks its snippets.
    pub(super) fence: &'static str,
    /// The snippets, which the page shows in this order.
    pub(super) snippets: &'static [&'static str],
    pub(super) recipe: Recipe,
    /// The publisher; its arguments follow: URL, form, subject, id.
    pub(super) publish: Words,
    /// The reader; its arguments follow: URL, seed file, stream, first sequence.
    pub(super) audit: Words,
    /// The client cannot tell the public key from the seed: the reader takes it as a last argument.
    pub(super) wants_public_key: bool,
}

/// Brings what builds the packages that come as source, where there are any.
const PIP_BUILD: Words = &[
    "python3",
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-input",
    "--no-deps",
    "--only-binary",
    ":all:",
    "--require-hashes",
    "--requirement",
    "build.txt",
    "--target",
    "build",
];

/// Brings what a `requirements.txt` pins into `lib`.
pub(super) const PIP: Words = &[
    "sh",
    "-c",
    // The whole path: what builds a source archive does so in a directory of its own.
    r#"PYTHONPATH="$PWD/build" exec "$@""#,
    "pip",
    "python3",
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-input",
    "--no-deps",
    "--no-build-isolation",
    "--only-binary",
    ":all:",
    "--require-hashes",
    "--requirement",
    "requirements.txt",
    "--target",
    "lib",
];

/// Brings what a `package-lock.json` pins, and runs nothing of it.
pub(super) const NPM: Words = &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"];

pub(super) const PYTHON: Language = Language {
    name: "Python",
    client: "nats-py, pip",
    fence: "python",
    snippets: &["publish.py", "audit.py"],
    recipe: Recipe {
        folder: "python",
        tool: &["python3", "--version"],
        fetch: &[PIP_BUILD, PIP],
        build: &[],
        cure: "install Python 3 with pip",
    },
    publish: &["env", "PYTHONPATH=lib", "python3", "publish.py"],
    audit: &["env", "PYTHONPATH=lib", "python3", "audit.py"],
    wants_public_key: false,
};

pub(super) const NODE: Language = Language {
    name: "JavaScript",
    client: "@nats-io/*, npm",
    fence: "js",
    snippets: &["publish.mjs", "audit.mjs"],
    recipe: Recipe {
        folder: "node",
        tool: &["node", "--version"],
        fetch: &[NPM],
        build: &[],
        cure: "install Node 18 or newer with npm",
    },
    publish: &["node", "publish.mjs"],
    audit: &["node", "audit.mjs"],
    wants_public_key: false,
};

pub(super) const GO: Language = Language {
    name: "Go",
    client: "nats.go, Go modules",
    fence: "go",
    snippets: &["publish/main.go", "audit/main.go", "audit/event.go", "audit/chain.go"],
    recipe: Recipe {
        folder: "go",
        tool: &["go", "version"],
        fetch: &[&["go", "mod", "download"]],
        build: &[&["go", "vet", "./..."], &["go", "build", "-o", "bin/", "./publish", "./audit"]],
        cure: "install Go 1.23 or newer",
    },
    publish: &["bin/publish"],
    audit: &["bin/audit"],
    wants_public_key: false,
};

pub(super) const JAVA: Language = Language {
    name: "Java",
    client: "jnats, Maven Central",
    fence: "java",
    snippets: &["Publish.java", "Audit.java", "Event.java", "Chain.java"],
    recipe: Recipe {
        folder: "java",
        tool: &["javac", "-version"],
        fetch: &[&["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]],
        build: &[&[
            "javac",
            "-cp",
            "lib/*",
            "-d",
            "out",
            "Publish.java",
            "Audit.java",
            "Event.java",
            "Chain.java",
        ]],
        cure: "install a JDK 17 or newer with Maven",
    },
    publish: &["java", "-cp", "out:lib/*", "Publish"],
    audit: &["java", "-cp", "out:lib/*", "Audit"],
    wants_public_key: false,
};

pub(super) const C: Language = Language {
    name: "C",
    client: "nats.c, Debian's libnats-dev",
    fence: "c",
    snippets: &["publish.c", "audit.c", "audit.h", "event.c", "chain.c"],
    recipe: Recipe {
        folder: "c",
        tool: &["cc", "--version"],
        // Finds the headers of the three libraries.
        fetch: &[&["cc", "-fsyntax-only", "-x", "c", "audit.h"]],
        build: &[
            &["cc", "-Wall", "-Wextra", "-Werror", "publish.c", "-o", "publish", "-lnats"],
            &[
                "cc",
                "-Wall",
                "-Wextra",
                "-Werror",
                "audit.c",
                "event.c",
                "chain.c",
                "-o",
                "audit",
                "-lnats",
                "-ljansson",
                "-lcrypto",
            ],
        ],
        cure: "install gcc, libnats-dev, libjansson-dev and libssl-dev",
    },
    publish: &["./publish"],
    audit: &["./audit"],
    wants_public_key: true,
};

pub(super) const ALL: [&Language; 5] = [&PYTHON, &NODE, &GO, &JAVA, &C];
