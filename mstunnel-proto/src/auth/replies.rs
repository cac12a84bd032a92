//! The answers that a login consists of: a config-auth document with its cookies.
//!
//! # Source
//! protocol.md section 2.5 and appendix A.

use super::{
    config::LoginConfig,
    cookie::Cookie,
    xml::{self, GroupOptions},
};
use crate::http::Response;

/// What a browser understands as "gone", in ocserv's words.
const GONE: &str = "expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure; HttpOnly";

/// The form for the user name; there is no conversation, so a stale context is taken away.
pub(super) fn username_form(config: &LoginConfig, chosen: Option<&str>) -> Response {
    let groups =
        GroupOptions { choices: &config.groups, selected: chosen.and_then(|text| config.group(text)) };
    let body = xml::username_form(config.pre_login_banner.as_deref(), groups);
    document(Response::new(200, "OK").header("Set-Cookie", format!("webvpncontext=; {GONE}")), body)
}

/// The form for the password, with the cookie of the conversation that has just begun.
pub(super) fn first_password_form(config: &LoginConfig, context: &Cookie) -> Response {
    let age = config.conversation_timeout.as_secs();
    let set = format!("webvpncontext={}; Max-Age={age}; Secure; HttpOnly", context.text());
    document(Response::new(200, "OK").header("Set-Cookie", set), xml::password_form(None))
}

/// The form for the password once more; the client has its context already.
pub(super) fn password_form_again(notice: Option<&str>) -> Response {
    document(Response::new(200, "OK"), xml::password_form(notice))
}

/// The end of a login.
pub(super) fn success(config: &LoginConfig, cookie: &Cookie) -> Response {
    let response = Response::new(200, "OK").header("Connection", "Keep-Alive");
    let sha1 = &config.certificate_sha1;
    document(response, xml::success(config.banner.as_deref()))
        .header("Set-Cookie", format!("webvpncontext={}; Secure; HttpOnly", cookie.spent_context().text()))
        .header("Set-Cookie", format!("webvpn={}; Secure; HttpOnly", cookie.text()))
        .header("Set-Cookie", format!("webvpnc=; {GONE}"))
        .header("Set-Cookie", format!("webvpnc=bu:/&p:t&iu:1/&sh:{sha1}; path=/; Secure; HttpOnly"))
}

fn document(response: Response, body: String) -> Response {
    response.body("text/xml", body).header("X-Transcend-Version", "1")
}
