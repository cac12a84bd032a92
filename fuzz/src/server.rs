//! What the server reads from its files, from its control socket, and in a token.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mstunnel_server::admin::{Request, Response};
use mstunnel_server::config::Settings;
use mstunnel_server::identity::Verdict;
use mstunnel_server::identity::oidc::Oidc;
use mstunnel_server::identity::password::PasswordFile;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A folder whose files the inputs are written to; it goes away with the process.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that nobody else can read.
    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file");
        file.write_all(content).expect("a full file");
        path
    }
}

thread_local! {
    static FOLDER: Folder = {
        let folder = Folder::new();
        folder.write("configuration.json", br#"{"id":"c1","displayName":"hq","network":"10.9.0.0/16","listenPort":8443}"#);
        folder.write("site.json", br#"{"id":"s1","displayName":"hq","publicAddress":"vpn.example","microsoftTunnelConfiguration":{"id":"c1"}}"#);
        folder.write("site.crt", include_bytes!("../../mstunnel-server/src/tls/golden/site.crt"));
        folder.write("site.key", include_bytes!("../../mstunnel-server/src/tls/golden/site.key"));
        folder.write("oidc.json", b"{}");
        folder.write("users.passwd", b"");
        folder
    };
}

/// `gateway.toml`, beside the files that it may name. A refusal says the file and what was wanted.
pub fn gateway_file(data: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.write("gateway.toml", data);
        match Settings::load(&path) {
            Ok((settings, _)) => assert!(settings.listen_addresses().count() > 0, "a server for nobody"),
            Err(error) => assert!(error.problems().count() > 0 && !error.to_string().is_empty()),
        }
    });
}

/// The password file: as many users as lines at most, and whoever is active has a line.
pub fn password_file(data: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.write("fuzzed.passwd", data);
        let Ok(file) = PasswordFile::open(&path) else { return };
        assert!(file.user_count() <= data.split(|&byte| byte == b'\n').count());
        assert!(!file.is_active(""), "nobody is a user");
        let text = String::from_utf8_lossy(data);
        let active =
            text.lines().filter_map(|line| line.split(':').next()).filter(|name| file.is_active(name));
        assert!(active.count() == 0 || file.user_count() > 0, "a user without a line");
    });
}

/// A line on the control socket, in either direction: what was understood is written as something that is
/// understood to be the same.
pub fn control_line(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_string(&request).expect("a request can be written");
        assert!(!line.contains('\n'), "a request of two lines");
        assert_eq!(serde_json::from_str::<Request>(&line).expect("a request"), request);
    }
    if let Ok(response) = serde_json::from_slice::<Response>(data) {
        let line = serde_json::to_string(&response).expect("a response can be written");
        assert!(!line.contains('\n'), "a response of two lines");
        assert_eq!(serde_json::from_str::<Response>(&line).expect("a response"), response);
    }
}

/// An issuer whose keys are known and never fetched: nothing drives its runtime.
struct Issuer {
    runtime: Runtime,
    oidc: Oidc,
    key: Ed25519KeyPair,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    const URL: &str = "https://issuer.example/.well-known/openid-configuration";
    let folder = Folder::new();
    let file = folder.write(
        "oidc.json",
        json!({
            "openid_configuration_url": URL,
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": "our-app" },
            "group_claims": ["groups"],
            "algorithms": ["EdDSA", "ES256", "RS256"],
        })
        .to_string()
        .as_bytes(),
    );
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a date after 1970");
    folder.write(
        "oidc-keys.json",
        json!({
            "openid_configuration_url": URL,
            "issuer": "https://issuer.example",
            "fetched": since_1970.as_secs(),
            // RFC 8037 appendix A.2, RFC 7517 appendix A.1.
            "key_set": { "keys": [
                { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
                { "kty": "EC", "crv": "P-256", "kid": "ec",
                  "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                  "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" },
            ] },
        })
        .to_string()
        .as_bytes(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let directory: &Path = folder.0.path();
    let oidc = Oidc::from_file(&file, Some(directory), runtime.handle()).expect("a good configuration");
    let seed = BASE64.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").expect("RFC 8037 appendix A.1");
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key");
    Issuer { runtime, oidc, key }
});

/// A token: nobody but whom the issuer has signed for is let in, under no name but a visible one.
pub fn token(data: &[u8]) {
    let Some((token, is_signed)) = token_in(data) else {
        return;
    };
    if let Some(Verdict::Accepted { user, groups }) = verdict(&token) {
        assert!(is_signed, "a signature was guessed");
        assert!(!user.is_empty() && !user.chars().any(char::is_control), "{user:?} is let in");
        assert!(groups.iter().all(|group| !group.is_empty()));
    }
}

/// The token, and whether the issuer has signed it. The first byte says whether the rest is one as it is, or its
/// header, its claims and its signature a line each; and whether the issuer signs these instead.
fn token_in(data: &[u8]) -> Option<(String, bool)> {
    let (&mode, rest) = data.split_first()?;
    if mode & 1 == 1 {
        return Some((String::from_utf8_lossy(rest).into_owned(), false));
    }
    let mut parts = rest.splitn(3, |&byte| byte == b'\n').map(|part| BASE64.encode(part));
    let mut part = || parts.next().unwrap_or_default();
    let message = format!("{}.{}", part(), part());
    let is_signed = mode & 2 == 0;
    let signature = if is_signed { BASE64.encode(ISSUER.key.sign(message.as_bytes())) } else { part() };
    Some((format!("{message}.{signature}"), is_signed))
}

/// The verdict, unless newer keys are waited for.
fn verdict(token: &str) -> Option<Verdict> {
    let _inside = ISSUER.runtime.enter();
    match pin!(ISSUER.oidc.verify(token)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => Some(verdict),
        Poll::Pending => None,
    }
}

/// What the seeds reach: a target whose issuer or folder is broken would refuse everything and find nothing.
#[cfg(test)]
mod tests {
    use super::*;

    fn seed(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)).unwrap()
    }

    #[test]
    fn a_signed_token_is_accepted_and_the_same_without_a_signature_is_not() {
        let verdict_of = |name| verdict(&token_in(&seed(name)).unwrap().0);
        assert!(matches!(verdict_of("token/signed"), Some(Verdict::Accepted { .. })));
        assert!(matches!(verdict_of("token/unsigned"), Some(Verdict::Rejected)));
        assert!(verdict_of("token/unknown_kid").is_none(), "newer keys are waited for");
    }

    #[test]
    fn a_good_gateway_file_and_a_good_password_file_are_taken() {
        FOLDER.with(|folder| {
            let gateway = folder.write("gateway.toml", &seed("gateway_file/good"));
            Settings::load(&gateway).unwrap_or_else(|error| panic!("{error}"));
            let users = folder.write("fuzzed.passwd", &seed("password_file/stock"));
            let users = PasswordFile::open(&users).unwrap();
            assert_eq!(users.user_count(), 3);
            assert!(users.is_active("bob") && !users.is_active("carol"));
        });
    }
}
