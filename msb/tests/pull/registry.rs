//! Debian's docker-registry on loopback, with TLS and a password, and an image in it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use microsandbox::images::image::Digest;

pub(crate) const USER: &str = "alice";
pub(crate) const PASSWORD: &str = "hunter2hunter2";
/// The line of the password in a file as htpasswd(1) makes it.
const PASSWORD_LINE: &str = "alice:$2y$05$coon7kalwCCngSANT3r25ePuBjcjd7zrzaAt72H9vFlJtw4zI17fi\n";

/// Layers of the image beside that with busybox: each of random bytes, which take a while.
const RANDOM_LAYERS: usize = 3;
const RANDOM_BYTES: usize = 1 << 20;

/// A registry that runs until this is dropped.
pub(crate) struct Registry {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Registry {
    /// Starts one with the image `box` in it, for who has the password.
    pub(crate) fn start() -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        certificates(at);
        fs::write(at.join("htpasswd"), PASSWORD_LINE).unwrap();
        // The authority's certificate is for everybody.
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        let registry = Registry::serve(directory, PRIVATE);
        registry.put("latest");
        registry
    }

    /// Starts one with the image `box` in it, for everybody, without TLS.
    pub(crate) fn start_open() -> Registry {
        let registry = Registry::serve(tempfile::tempdir().unwrap(), "");
        registry.put("latest");
        registry
    }

    fn serve(directory: tempfile::TempDir, privacy: &str) -> Registry {
        let at = directory.path();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        fs::write(at.join("registry.yml"), configuration(port, privacy)).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", "registry.yml"])
            .current_dir(at)
            .stdout(File::create(at.join("access.log")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (make setup)");
        let log = BufReader::new(process.stderr.take().unwrap());
        let registry = Registry {
            process,
            port,
            directory,
        };
        let mut lines = log.lines();
        assert!(
            lines.any(|line| line.unwrap().contains("listening on")),
            "it did not start"
        );
        // It must not wait for somebody who reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        registry
    }

    /// Host and port.
    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The image where it is not seen that this machine has it: Linux takes a connection to 0.0.0.0 for one to itself.
    pub(crate) fn image_elsewhere(&self) -> String {
        format!("0.0.0.0:{}/box:latest", self.port)
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/box:latest", self.name())
    }

    /// The certificate of the authority that vouches for it.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// How many blobs were sent.
    pub(crate) fn blobs_sent(&self) -> usize {
        let log = fs::read_to_string(self.directory.path().join("access.log")).unwrap();
        let sent = |line: &&str| line.contains("GET /v2/box/blobs/") && line.contains("\" 20");
        log.lines().filter(sent).count()
    }

    /// The digest of the manifest that was put there at first.
    pub(crate) fn digest(&self) -> Digest {
        digest("latest")
    }

    /// Lets the image's name be that of another one of the same layers, whose digest is returned.
    pub(crate) fn move_tag(&self) -> Digest {
        self.put("moved");
        digest("moved")
    }

    /// Gives the image's name to what is `tag` in the layout.
    fn put(&self, tag: &str) {
        let target = format!("docker://{}", self.image());
        let credentials = format!("{USER}:{PASSWORD}");
        let source = format!("oci:{}:{tag}", layout().display());
        let arguments = [
            "--insecure-policy",
            "copy",
            "--dest-cert-dir",
            ".",
            // It is on this machine, where one without TLS is found.
            "--dest-tls-verify=false",
            "--dest-creds",
        ];
        let arguments = [&arguments[..], &[&credentials, &source, &target]].concat();
        run(self.directory.path(), "skopeo", &arguments);
    }
}

/// The digest of the manifest that is `tag` in the layout.
fn digest(tag: &str) -> Digest {
    let index = fs::read(layout().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let mut manifests = index["manifests"].as_array().unwrap().iter();
    let is_tag = |manifest: &&serde_json::Value| {
        manifest["annotations"]["org.opencontainers.image.ref.name"] == tag
    };
    let found = manifests.find(is_tag).unwrap();
    found["digest"].as_str().unwrap().parse().unwrap()
}

/// An image of a root file system of the tests, in an OCI layout; made once for all tests.
fn layout() -> &'static Path {
    static LAYOUT: LazyLock<PathBuf> = LazyLock::new(|| {
        let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pull");
        // What an earlier run left.
        let _ = fs::remove_dir_all(&at);
        fs::create_dir(&at).unwrap();
        make_layout(&at);
        at.join("layout")
    });
    &LAYOUT
}

fn make_layout(at: &Path) {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rootfs/build");
    let root = output(at, build, &["busybox"]);
    run(at, "umoci", &["init", "--layout", "layout"]);
    run(at, "umoci", &["new", "--image", "layout:latest"]);
    run(
        at,
        "umoci",
        &["unpack", "--rootless", "--image", "layout:latest", "bundle"],
    );
    run(
        at,
        "cp",
        &["-a", &format!("{}/.", root.trim()), "bundle/rootfs"],
    );
    let repack = [
        "repack",
        "--refresh-bundle",
        "--image",
        "layout:latest",
        "bundle",
    ];
    run(at, "umoci", &repack);
    for number in 0..RANDOM_LAYERS {
        let mut random = vec![0; RANDOM_BYTES];
        let mut source = File::open("/dev/urandom").unwrap();
        source.read_exact(&mut random).unwrap();
        fs::write(at.join(format!("bundle/rootfs/random{number}")), random).unwrap();
        run(at, "umoci", &repack);
    }
    let label = ["config", "--image", "layout:latest", "--tag", "moved"];
    run(
        at,
        "umoci",
        &[&label[..], &["--config.label", "moved=yes"]].concat(),
    );
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How the configuration of a registry goes on that is not open to everybody, after what is in `http`.
const PRIVATE: &str = "  tls:
    certificate: server.pem
    key: server-key.pem
auth:
  htpasswd:
    realm: test
    path: htpasswd
";

/// Of one that runs in the directory where its files are.
fn configuration(port: u16, privacy: &str) -> String {
    format!(
        "version: 0.1
storage:
  filesystem:
    rootdirectory: storage
http:
  addr: 127.0.0.1:{port}
  secret: secret
{privacy}"
    )
}

/// An authority, and what it says of 127.0.0.1.
fn certificates(at: &Path) {
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let authority = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-keyout",
        "ca-key.pem",
    ];
    run(
        at,
        "openssl",
        &[&authority[..], &new_key, &["-out", "ca.crt"]].concat(),
    );
    let server = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        "server-key.pem",
    ];
    let signed = [
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca-key.pem",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ];
    let end = [
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-out",
        "server.pem",
    ];
    run(
        at,
        "openssl",
        &[&server[..], &new_key, &signed, &end].concat(),
    );
}

fn run(at: &Path, program: &str, arguments: &[&str]) {
    output(at, program, arguments);
}

fn output(at: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(at)
        .output()
        .expect("the program is installed (make setup)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
