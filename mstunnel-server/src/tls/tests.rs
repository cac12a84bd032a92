//! Loading of identities from files that `rcgen` and OpenSSL wrote, and handshakes in memory.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};
use tempfile::TempDir;

use super::*;
use crate::config::CertificateSource;

const PASSWORD: &str = "correct horse\n";

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name)).as_slice()
    };
}

/// A directory of secret files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn pem(&self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> TlsSettings {
        settings(CertificateSource::Pem {
            certificate: self.write("site.crt", certificate),
            key: self.write("site.key", key),
            password_file: None,
        })
    }

    fn pem_with_password(&self, key: &[u8], password: &str) -> TlsSettings {
        let mut settings = self.pem(golden!("site.crt"), key);
        let written = Some(self.write("password", password));
        if let CertificateSource::Pem { password_file, .. } = &mut settings.source {
            *password_file = written;
        }
        settings
    }

    fn pfx(&self, bundle: &[u8], password: Option<&str>) -> TlsSettings {
        settings(CertificateSource::Pfx {
            pfx: self.write("site.pfx", bundle),
            password_file: password.map(|password| self.write("password", password)),
        })
    }
}

fn settings(source: CertificateSource) -> TlsSettings {
    TlsSettings { source, minimum: TlsVersion::Tls12, maximum: TlsVersion::Tls13, client_ca: None }
}

/// A root, an intermediate and a leaf with SAN `vpn.corp.example` and `192.0.2.7`.
struct Chain {
    root: String,
    intermediate: String,
    leaf: String,
    key: String,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf() -> CertificateParams {
    let names = vec!["VPN.corp.example".to_owned(), "192.0.2.7".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2030, 1, 1);
    params.not_after = date_time_ymd(2030, 12, 1);
    params
}

/// A day of 2030, counted from its first.
fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000 + number * 86_400)
}

/// When these tests take place: 2 March 2030.
fn today() -> SystemTime {
    day(60)
}

fn chain() -> Chain {
    let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
    let intermediate =
        CertifiedIssuer::signed_by(authority("intermediate"), KeyPair::generate().unwrap(), &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf().signed_by(&key, &intermediate).unwrap();
    Chain { root: root.pem(), intermediate: intermediate.pem(), leaf: leaf.pem(), key: key.serialize_pem() }
}

fn what_is_wrong(settings: &TlsSettings, now: SystemTime) -> Vec<(&'static str, String)> {
    let error = load_at(settings, now).unwrap_err();
    error.problems().iter().map(|problem| (problem.key, problem.to_string())).collect()
}

fn warnings(settings: &TlsSettings, now: SystemTime) -> Vec<String> {
    load_at(settings, now).unwrap().warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_chain_with_its_key_is_taken_without_a_word() {
    let (files, chain) = (Files::new(), chain());
    let settings = files.pem(chain.leaf.clone() + &chain.intermediate + &chain.root, &chain.key);
    let identity = load_at(&settings, today()).unwrap();
    assert_eq!(identity.warnings(), []);
    assert_eq!(identity.names(), ["vpn.corp.example", "192.0.2.7"]);
    assert_eq!(identity.not_after(), day(334));
    assert_eq!(identity.certified.cert.len(), 3);
}

/// Covers: P-119, R77
#[test]
fn a_key_of_another_certificate_is_refused() {
    let (files, chain) = (Files::new(), chain());
    let settings = files.pem(&chain.leaf, KeyPair::generate().unwrap().serialize_pem());
    let wrong = what_is_wrong(&settings, today());
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0].0, "key");
    assert!(wrong[0].1.ends_with(
        "site.key: belongs to none of the 1 certificates; want the private key of the certificate"
    ));
}

/// Covers: R77: what a server that runs for long tells.
#[test]
fn the_end_of_a_certificate_is_told_thirty_days_ahead_and_an_expired_one_is_a_problem() {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let end = SystemTime::UNIX_EPOCH + days(20_000);
    for (left, expected) in [(31, Validity::Long), (30, Validity::Ending(30)), (0, Validity::Ending(0))] {
        assert_eq!(validity(end, end - days(left)), expected);
    }
    let expired = validity(end, end + Duration::from_secs(1));
    assert_eq!(expired, Validity::Expired);
    assert!(expired.expired().is_some() && expired.ending().is_none());
    let ending = Validity::Ending(12);
    assert!(ending.expired().is_none() && ending.ending().unwrap().contains("12 days"));
    assert_eq!((Validity::Long.expired(), Validity::Long.ending()), (None, None));
}

/// Covers: P-119
#[test]
fn an_expired_or_future_certificate_is_refused_to_the_second() {
    let (files, chain) = (Files::new(), chain());
    let settings = files.pem(&chain.leaf, &chain.key);
    let second = Duration::from_secs(1);
    assert!(load_at(&settings, day(0)).is_ok());
    assert!(load_at(&settings, day(334)).is_ok());
    let early = what_is_wrong(&settings, day(0) - second);
    assert!(early[0].1.contains("is not valid before") && early[0].0 == "certificate", "{early:?}");
    let late = what_is_wrong(&settings, day(334) + second);
    assert!(late[0].1.contains("CN=leaf expired at"), "{late:?}");
}

/// Covers: R77
#[test]
fn the_end_is_announced_thirty_days_before() {
    let (files, chain) = (Files::new(), chain());
    let settings = files.pem(chain.leaf + &chain.intermediate, &chain.key);
    assert_eq!(warnings(&settings, day(304)), Vec::<String>::new());
    let soon = warnings(&settings, day(304) + Duration::from_secs(1));
    assert!(soon[0].contains("expires at"), "{soon:?}");
}

#[test]
fn a_chain_in_another_order_is_put_right_with_a_warning() {
    let (files, chain) = (Files::new(), chain());
    let settings = files.pem(chain.root + &chain.intermediate + &chain.leaf, &chain.key);
    let identity = load_at(&settings, today()).unwrap();
    assert!(identity.warnings()[0].what.contains("in another order"), "{:?}", identity.warnings());
    let pem = CertificateDer::from_pem_slice(chain.leaf.as_bytes()).unwrap();
    assert_eq!(identity.certified.end_entity_cert().unwrap(), &pem);
    assert_eq!(identity.certified.cert.len(), 3);
}

/// Covers: P-119
#[test]
fn a_missing_issuer_and_strangers_are_pointed_out() {
    let (files, own, other) = (Files::new(), chain(), chain());
    let alone = warnings(&files.pem(&own.leaf, &own.key), today());
    assert!(alone[0].contains("the issuer (CN=intermediate) is not in the file"), "{alone:?}");
    // The other root has the same name; its key identifier tells that it is a stranger.
    let mixed = own.leaf.clone() + &own.intermediate + &other.root;
    let settings = files.pem(mixed, &own.key);
    let identity = load_at(&settings, today()).unwrap();
    assert_eq!(identity.certified.cert.len(), 2);
    assert!(identity.warnings()[0].what.contains("1 certificates are not issuers"));
}

#[test]
fn a_life_that_phones_refuse_and_a_certificate_without_names_are_pointed_out() {
    let (files, key) = (Files::new(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_before = date_time_ymd(2029, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 2);
    let settings = files.pem(params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let lines = warnings(&settings, today());
    assert!(lines[0].contains("valid for 731 days") && lines[1].contains("alternative names"), "{lines:?}");
}

#[test]
fn a_weak_rsa_key_is_refused_and_a_good_one_is_not() {
    let files = Files::new();
    let now = SystemTime::now();
    let weak = what_is_wrong(&files.pem(golden!("rsa1024.crt"), golden!("rsa1024.key")), now);
    assert!(weak[0].1.contains("want a private key: RSA of 2048 bits or more"), "{weak:?}");
    assert!(load_at(&files.pem(golden!("rsa2048.crt"), golden!("pkcs1.key")), now).is_ok());
}

#[test]
fn every_spelling_of_a_plain_key_is_read() {
    let files = Files::new();
    for key in [golden!("site.key"), golden!("sec1.key")] {
        assert!(load(&files.pem(golden!("site.crt"), key)).is_ok());
    }
}

#[test]
fn an_encrypted_key_needs_its_password() {
    let files = Files::new();
    for key in [golden!("encrypted.key"), golden!("scrypt.key")] {
        assert!(load(&files.pem_with_password(key, PASSWORD)).is_ok());
        assert!(load(&files.pem_with_password(key, "correct horse\r\nand more")).is_ok());
        let wrong = what_is_wrong(&files.pem_with_password(key, "battery staple"), today());
        assert!(wrong[0].1.contains("site.key: cannot be decrypted; want the right password"), "{wrong:?}");
        let none = what_is_wrong(&files.pem(golden!("site.crt"), key), today());
        assert!(none[0].1.contains("an encrypted key; want a password_file"), "{none:?}");
    }
    let old = what_is_wrong(&files.pem_with_password(golden!("traditional.key"), PASSWORD), today());
    assert!(old[0].1.contains("openssl pkcs8 -topk8"), "{old:?}");
}

#[test]
fn bundles_of_openssl_are_read_with_their_password_and_refused_without() {
    let files = Files::new();
    for bundle in [golden!("default.pfx"), golden!("legacy.pfx"), golden!("windows.pfx")] {
        let identity = load(&files.pfx(bundle, Some(PASSWORD))).unwrap();
        assert_eq!(identity.names(), ["vpn.corp.example"]);
        assert_eq!(identity.certified.cert.len(), 2);
        for password in [None, Some(""), Some("battery staple")] {
            let wrong = what_is_wrong(&files.pfx(bundle, password), today());
            assert!(wrong[0].0 == "pfx" && wrong[0].1.contains("cannot be opened"), "{wrong:?}");
        }
    }
    assert!(load(&files.pfx(golden!("empty-password.pfx"), None)).is_ok());
    let no_key = what_is_wrong(&files.pfx(golden!("no-key.pfx"), Some(PASSWORD)), today());
    assert!(no_key[0].1.contains("1 certificates and 0 keys inside"), "{no_key:?}");
}

#[test]
fn the_fingerprint_is_the_one_that_openssl_prints() {
    let printed = std::str::from_utf8(golden!("leaf.sha1")).unwrap();
    let digits: String = printed.split('=').nth(1).unwrap().trim().replace(':', "");
    let identity = load(&Files::new().pem(golden!("site.crt"), golden!("site.key"))).unwrap();
    assert_eq!(identity.leaf_sha1(), digits);
    assert_eq!(digits.len(), 40);
}

#[test]
fn files_that_hold_something_else_are_refused_all_at_once() {
    let files = Files::new();
    let wrong = what_is_wrong(&files.pem("nothing", "nothing"), today());
    assert!(wrong[0].1.contains("site.crt: no certificate inside"), "{wrong:?}");
    assert!(wrong[1].1.contains("site.key: no private key inside"), "{wrong:?}");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(what_is_wrong(&files.pem(broken, golden!("site.key")), today())[0].1.contains("X.509"));
    let many = broken.repeat(33);
    assert!(what_is_wrong(&files.pem(many, golden!("site.key")), today())[0].1.contains("limit 32"));
    assert!(what_is_wrong(&files.pfx(b"nothing", None), today())[0].1.contains("cannot be opened"));
}

/// Covers: P-137, R86
#[test]
fn secrets_that_everybody_can_read_are_refused() {
    let files = Files::new();
    let open_up = |name: &str| {
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(files.0.path().join(name), mode).unwrap();
    };
    let settings = files.pem(golden!("site.crt"), golden!("site.key"));
    open_up("site.crt");
    assert!(load(&settings).is_ok());
    open_up("site.key");
    let wrong = what_is_wrong(&settings, today());
    assert!(wrong[0].0 == "key" && wrong[0].1.contains("mode 0644 lets every user in"), "{wrong:?}");

    let settings = files.pfx(golden!("default.pfx"), Some(PASSWORD));
    open_up("site.pfx");
    open_up("password");
    let wrong = what_is_wrong(&settings, today());
    assert_eq!([wrong[0].0, wrong[1].0], ["pfx", "password_file"]);
}

/// Covers: R86
#[test]
fn no_debug_text_shows_the_key() {
    let tls = Tls::new(load(&Files::new().pem(golden!("site.crt"), golden!("site.key"))).unwrap()).unwrap();
    let text = format!("{:?} {:?}", tls.identity(), tls.identity().warnings());
    assert!(text.contains("vpn.corp.example") && text.len() < 1_000, "{text}");
}

#[test]
fn a_wildcard_covers_one_whole_label() {
    let mut identity = load(&Files::new().pem(golden!("site.crt"), golden!("site.key"))).unwrap();
    identity.names =
        ["*.corp.example", "vpn*.lab.example", "192.0.2.7", "*.0.2.8"].map(str::to_owned).to_vec();
    for host in ["vpn.corp.example", "VPN.Corp.Example", "192.0.2.7"] {
        assert!(identity.covers(host), "{host}");
    }
    for host in ["corp.example", "a.b.corp.example", "vpn1.lab.example", "192.0.2.8", "x192.0.2.7"] {
        assert!(!identity.covers(host), "{host}");
    }
}

/// Covers: R11
#[test]
fn only_ephemeral_keys_and_aead_are_offered_without_early_data_or_resumption() {
    let identity = load(&Files::new().pem(golden!("site.crt"), golden!("site.key"))).unwrap();
    let config = server_config(&identity).unwrap();
    assert!(!config.crypto_provider().cipher_suites.is_empty());
    for suite in &config.crypto_provider().cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
        assert!(name.contains("_GCM_") || name.contains("CHACHA20_POLY1305"), "{name}");
    }
    let first_group = config.crypto_provider().kx_groups[0].name();
    assert_eq!(first_group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!((config.max_early_data_size, config.send_tls13_tickets), (0, 0));
    assert!(config.alpn_protocols.is_empty() && !config.session_storage.can_cache());
    assert!(!config.ticketer.enabled());
}

#[derive(Debug)]
struct Today;

impl TimeProvider for Today {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(today().duration_since(SystemTime::UNIX_EPOCH).unwrap()))
    }
}

/// A client that trusts `root` and speaks `versions`.
fn client(root: &str, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_details(provider(), Arc::new(Today))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Lets both sides talk until they are silent; what the client or the server failed with.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("vpn.corp.example").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

/// Covers: R11, P-015
#[test]
fn tls_1_3_is_preferred_and_the_floor_is_where_it_was_set() {
    let (files, chain) = (Files::new(), chain());
    let mut settings = files.pem(chain.leaf + &chain.intermediate, &chain.key);
    let only_12 = Arc::new(client(&chain.root, &[&rustls::version::TLS12]));
    let both = Arc::new(client(&chain.root, rustls::ALL_VERSIONS));

    let server = server_config(&load_at(&settings, today()).unwrap()).unwrap();
    let version = |client| handshake(client, &server).unwrap().0.protocol_version();
    assert_eq!(version(&both), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(version(&only_12), Some(ProtocolVersion::TLSv1_2));

    settings.minimum = TlsVersion::Tls13;
    let strict = server_config(&load_at(&settings, today()).unwrap()).unwrap();
    assert!(handshake(&both, &strict).is_ok());
    assert!(handshake(&only_12, &strict).is_err());

    (settings.minimum, settings.maximum) = (TlsVersion::Tls12, TlsVersion::Tls12);
    let old = server_config(&load_at(&settings, today()).unwrap()).unwrap();
    assert_eq!(handshake(&both, &old).unwrap().0.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

/// Covers: R20
#[test]
fn a_client_that_comes_again_makes_a_full_handshake() {
    let (files, chain) = (Files::new(), chain());
    let identity = load_at(&files.pem(chain.leaf + &chain.intermediate, &chain.key), today()).unwrap();
    let server = server_config(&identity).unwrap();
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let client = Arc::new(client(&chain.root, versions));
        for _ in 0..2 {
            let (client, _) = handshake(&client, &server).unwrap();
            assert!(client.handshake_kind().is_some_and(|kind| kind != HandshakeKind::Resumed));
        }
    }
}

/// Covers: R77, P-119
#[test]
fn a_new_certificate_is_for_new_handshakes_and_an_old_connection_lives_on() {
    let (files, old, new) = (Files::new(), chain(), chain());
    let identity = |chain: &Chain| {
        load_at(&files.pem(chain.leaf.clone() + &chain.intermediate, &chain.key), today()).unwrap()
    };
    let tls = Tls::new(identity(&old)).unwrap();
    let knows_old = Arc::new(client(&old.root, rustls::ALL_VERSIONS));
    let knows_new = Arc::new(client(&new.root, rustls::ALL_VERSIONS));
    // The configuration was handed out before the change, as a listener does.
    let config = tls.config();
    let (mut connected, mut server) = handshake(&knows_old, &config).unwrap();
    assert!(handshake(&knows_new, &config).is_err());

    tls.replace(identity(&new));
    assert!(handshake(&knows_new, &config).is_ok());
    assert!(handshake(&knows_old, &config).is_err());
    assert_eq!(tls.identity().leaf_sha1(), identity(&new).leaf_sha1());

    std::io::Write::write_all(&mut connected.writer(), b"still here").unwrap();
    let mut bytes = Vec::new();
    connected.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut bytes.as_slice()).unwrap();
    assert_eq!(server.process_new_packets().unwrap().plaintext_bytes_to_read(), 10);
}

/// The exporter must work without the extended master secret, which stock clients do not offer.
///
/// Covers: R13
#[test]
fn both_ends_export_the_same_key() {
    let (files, chain) = (Files::new(), chain());
    let identity = load_at(&files.pem(chain.leaf + &chain.intermediate, &chain.key), today()).unwrap();
    let config = server_config(&identity).unwrap();
    assert!(!config.require_ems);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let (client, server) = handshake(&Arc::new(client(&chain.root, versions)), &config).unwrap();
        let label = b"EXPORTER-openconnect-psk";
        let ours = server.export_keying_material([0_u8; 32], label, None).unwrap();
        assert_eq!(ours, client.export_keying_material([0_u8; 32], label, None).unwrap());
    }
}

#[test]
fn clients_are_asked_for_a_certificate_only_if_there_is_an_authority_and_may_have_none() {
    let (files, chain) = (Files::new(), chain());
    let mut settings = files.pem(chain.leaf.clone() + &chain.intermediate, &chain.key);
    let without = client(&chain.root, rustls::ALL_VERSIONS);
    let mut with = without.clone();
    let user = KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(authority("users"), KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&user, &authority).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(user.serialize_der()).unwrap();
    let certified = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider()).unwrap();
    with.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let (with, without) = (Arc::new(with), Arc::new(without));

    let config = |settings: &TlsSettings| server_config(&load_at(settings, today()).unwrap()).unwrap();
    let presented = |client: &Arc<ClientConfig>, config: &Arc<ServerConfig>| {
        handshake(client, config).unwrap().1.peer_certificates().map(<[_]>::len)
    };
    let silent = config(&settings);
    assert_eq!(presented(&with, &silent), None);
    settings.client_ca = Some(files.write("clients.crt", authority.pem()));
    let asking = config(&settings);
    assert_eq!(presented(&with, &asking), Some(1));
    assert_eq!(presented(&without, &asking), None);
    // A certificate of a stranger is not taken for none: the handshake ends.
    settings.client_ca = Some(files.write("clients.crt", &chain.root));
    assert!(handshake(&with, &config(&settings)).is_err());

    settings.client_ca = Some(files.0.path().join("missing"));
    assert_eq!(what_is_wrong(&settings, today())[0].0, "client_ca");
}
