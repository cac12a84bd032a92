//! What keeps an unprivileged user from a namespace, and what to do about it.

use std::fs;
use std::io;

/// The settings of a kernel that matter here, as they are.
#[derive(Debug, Default)]
struct Settings {
    unprivileged_userns_clone: Option<String>,
    max_user_namespaces: Option<String>,
    max_net_namespaces: Option<String>,
    max_mnt_namespaces: Option<String>,
    apparmor_restrict: Option<String>,
}

impl Settings {
    fn of_this_host() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        Self {
            unprivileged_userns_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces"),
            max_net_namespaces: read("/proc/sys/user/max_net_namespaces"),
            max_mnt_namespaces: read("/proc/sys/user/max_mnt_namespaces"),
            apparmor_restrict: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    fn explain(&self, error: &io::Error) -> String {
        let is = |setting: &Option<String>, value: &str| setting.as_deref() == Some(value);
        let limits = [
            ("user.max_user_namespaces", &self.max_user_namespaces),
            ("user.max_net_namespaces", &self.max_net_namespaces),
            ("user.max_mnt_namespaces", &self.max_mnt_namespaces),
        ];
        let code = error.raw_os_error();
        if matches!(code, Some(libc::EPERM | libc::EACCES)) && is(&self.unprivileged_userns_clone, "0") {
            return "kernel.unprivileged_userns_clone is 0, so that only root can make namespaces: set it to 1 \
                    (sysctl -w kernel.unprivileged_userns_clone=1)"
                .to_owned();
        }
        if matches!(code, Some(libc::EPERM | libc::EACCES)) && is(&self.apparmor_restrict, "1") {
            return "kernel.apparmor_restrict_unprivileged_userns is 1, so that AppArmor lets only programs with a \
                    profile use namespaces: give mstunnel-client a profile with `userns,`, or set it to 0 (sysctl \
                    -w kernel.apparmor_restrict_unprivileged_userns=0)"
                .to_owned();
        }
        if code == Some(libc::ENOSPC) {
            let limit = limits.iter().find(|(_, value)| is(value, "0"));
            let (name, value) =
                limit.map_or(("user.max_user_namespaces", "used up"), |(name, _)| (*name, "0"));
            return format!(
                "{name} is {value}, so that no namespace can be made: raise it (sysctl -w {name}=10000)"
            );
        }
        match code {
            Some(libc::EINVAL | libc::ENOSYS) => {
                "this kernel has no user namespaces (CONFIG_USER_NS), which `run` needs: use `proxy`, which needs none"
                    .to_owned()
            }
            Some(libc::EPERM | libc::EACCES) => {
                "making a user namespace is not permitted here; in a container its seccomp profile forbids it (docker: \
                 --security-opt seccomp=unconfined): or use `proxy`, which needs no namespace"
                    .to_owned()
            }
            _ => format!("cannot make a namespace: {error}"),
        }
    }
}

/// Says why namespaces could not be made or used, and what to do.
pub(super) fn explain(error: &io::Error) -> String {
    Settings::of_this_host().explain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(settings: &Settings, code: i32) -> String {
        settings.explain(&io::Error::from_raw_os_error(code))
    }

    #[test]
    fn each_obstacle_is_named_with_its_setting() {
        let value = |text: &str| Some(text.to_owned());
        let debian = Settings { unprivileged_userns_clone: value("0"), ..Settings::default() };
        assert!(explained(&debian, libc::EPERM).contains("kernel.unprivileged_userns_clone=1"));
        let ubuntu = Settings { apparmor_restrict: value("1"), ..Settings::default() };
        assert!(explained(&ubuntu, libc::EACCES).contains("AppArmor"));
        let none = Settings { max_user_namespaces: value("0"), ..Settings::default() };
        assert!(explained(&none, libc::ENOSPC).contains("user.max_user_namespaces is 0"));
        let net = Settings {
            max_user_namespaces: value("9"),
            max_net_namespaces: value("0"),
            ..Settings::default()
        };
        assert!(explained(&net, libc::ENOSPC).contains("user.max_net_namespaces is 0"));
        assert!(explained(&Settings::default(), libc::EPERM).contains("seccomp"));
        assert!(explained(&Settings::default(), libc::EINVAL).contains("CONFIG_USER_NS"));
    }
}
