//! Heads captured from the stock peers, through the readers.

use super::{HttpError, Method, Reply, Request, RequestReader, ResponseReader, Version};

/// Reads one request, byte by byte.
fn request(bytes: &[u8]) -> Result<Request, HttpError> {
    let mut reader = RequestReader::new();
    for byte in bytes {
        assert_eq!(reader.handle_bytes(&[*byte])?, 1);
    }
    Ok(reader.poll_request().expect("a capture is one whole request"))
}

fn reply(bytes: &[u8]) -> Reply {
    let mut reader = ResponseReader::new();
    assert_eq!(reader.handle_bytes(bytes), Ok(bytes.len()));
    reader.poll_reply().expect("a capture is one whole response")
}

/// Covers: statements 3, 5
#[test]
fn the_login_of_the_stock_client_is_read() {
    let init = request(include_bytes!("../../testdata/openconnect-9.01-post-init.http")).unwrap();
    assert_eq!((&init.method, init.path(), init.version), (&Method::Post, "/", Version::Http11));
    assert_eq!(init.header("x-aggregate-auth"), Some("1"));
    assert!(init.body.starts_with(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth"));
    assert!(init.body.ends_with(b"</config-auth>\n"));
    assert!(init.keeps_alive());

    let user = request(include_bytes!("../../testdata/openconnect-9.01-post-username.http")).unwrap();
    assert_eq!((user.path(), user.cookie("webvpncontext")), ("/auth", None));
    let password = request(include_bytes!("../../testdata/openconnect-9.01-post-password.http")).unwrap();
    assert_eq!(password.cookie("webvpncontext"), Some(COOKIE));
}

const COOKIE: &str = "Abcdefghbcdefghbcdefghbcdefghbcdefghbcdefgg=";

/// Covers: statement 14
#[test]
fn the_legacy_login_of_the_stock_client_is_read() {
    let get = request(include_bytes!("../../testdata/openconnect-9.01-get-legacy.http")).unwrap();
    assert_eq!((&get.method, get.header("Content-Length"), get.body.len()), (&Method::Get, Some("0"), 0));
    let post = request(include_bytes!("../../testdata/openconnect-9.01-post-legacy.http")).unwrap();
    assert_eq!(post.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(post.body, b"username=alice");
}

/// Covers: statement 20
#[test]
fn the_login_of_the_stock_server_is_read() {
    let form = reply(include_bytes!("../../testdata/ocserv-1.1.6-form-username.http"));
    assert_eq!((form.status, form.set_cookies().next()), (200, Some(("webvpncontext", ""))));
    let form = reply(include_bytes!("../../testdata/ocserv-1.1.6-form-password.http"));
    assert_eq!(form.set_cookies().next(), Some(("webvpncontext", COOKIE)));
    assert!(form.keeps_alive());
    let success = reply(include_bytes!("../../testdata/ocserv-1.1.6-success.http"));
    let names: Vec<_> = success.set_cookies().map(|(name, _)| name).collect();
    assert_eq!(names, ["webvpncontext", "webvpn", "webvpnc", "webvpnc"]);
    assert!(success.body.ends_with(b"</config-auth>\n") || success.body.ends_with(b"</config-auth>"));
}
