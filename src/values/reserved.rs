//! Reserved names, which visitors or programs trust and which the holder of an open invitation must not choose.
//!
//! The holder of an open invitation chooses an id, which becomes a public name below the operator's domain. Some names have
//! a special meaning there: mail programs and browsers look for configuration at `autodiscover.` and `wpad.`, certificate
//! authorities accept mail to `hostmaster@` as proof of ownership, and people enter passwords at `login.`. The operator
//! can assign them to a client explicitly.

/// Names with a meaning of their own, without hyphens and digits at the ends: see [`is_reserved_for_operator`].
const RESERVED: &[&str] = &[
    "abuse",
    "account",
    "accounts",
    "acme",
    "acmechallenge",
    "adfs",
    "adit",
    "adm",
    "admin",
    "administration",
    "administrator",
    "adminpanel",
    "admins",
    "alert",
    "alerts",
    "api",
    "apis",
    "apiv",
    "assets",
    "auth",
    "authentication",
    "authorize",
    "autoconfig",
    "autodiscover",
    "billing",
    "broadcasthost",
    "cacert",
    "caldav",
    "callback",
    "carddav",
    "cdn",
    "cert",
    "certs",
    "changepassword",
    "config",
    "console",
    "controlpanel",
    "cpanel",
    "crl",
    "dashboard",
    "dkim",
    "dmarc",
    "dns",
    "domainkey",
    "email",
    "emailverification",
    "enterpriseenrollment",
    "enterpriseregistration",
    "ftp",
    "gateway",
    "health",
    "healthcheck",
    "healthz",
    "help",
    "helpdesk",
    "hostmaster",
    "id",
    "identity",
    "idp",
    "imap",
    "imaps",
    "info",
    "internal",
    "invoice",
    "invoices",
    "isatap",
    "jwks",
    "kerberos",
    "keycloak",
    "kms",
    "ldap",
    "local",
    "localdomain",
    "localhost",
    "login",
    "logins",
    "logon",
    "logout",
    "lyncdiscover",
    "mail",
    "mailer",
    "mailerdaemon",
    "mailhost",
    "mails",
    "mailserver",
    "manage",
    "management",
    "metrics",
    "mfa",
    "monitor",
    "monitoring",
    "mta",
    "mtasts",
    "mx",
    "myaccount",
    "nameserver",
    "noc",
    "noreply",
    "ns",
    "ntp",
    "oauth",
    "ocsp",
    "official",
    "oidc",
    "openid",
    "operator",
    "owa",
    "owner",
    "passkey",
    "passkeys",
    "password",
    "passwords",
    "pay",
    "payment",
    "payments",
    "phpmyadmin",
    "pki",
    "pop",
    "portal",
    "postmaster",
    "proxy",
    "register",
    "registration",
    "relay",
    "reset",
    "resetpassword",
    "root",
    "saml",
    "secure",
    "security",
    "server",
    "servers",
    "session",
    "sftp",
    "signin",
    "signon",
    "signup",
    "sip",
    "sipinternal",
    "sipinternaltls",
    "smtp",
    "smtps",
    "spf",
    "ssh",
    "ssl",
    "ssladmin",
    "ssladministrator",
    "sslwebmaster",
    "sso",
    "staff",
    "static",
    "status",
    "sts",
    "submission",
    "subscribe",
    "superuser",
    "support",
    "sysadmin",
    "syslog",
    "system",
    "tls",
    "token",
    "tokens",
    "trust",
    "tunnel",
    "tunnels",
    "unsubscribe",
    "usenet",
    "user",
    "users",
    "uucp",
    "vault",
    "verify",
    "vpn",
    "webdisk",
    "webmail",
    "webmaster",
    "whm",
    "whois",
    "wpad",
    "www",
    "wwws",
];

/// Returns whether only the operator may assign `label` to a client.
///
/// Hyphens, and digits at either end, make no difference: `ns1`, `mta-sts` and `sign-in` are reserved because `ns`, `mtasts` and
/// `signin` are. So is every label with hyphens at its third and fourth place (RFC 5891, section 4.2.3.1): browsers show
/// one that begins with `xn--` in other letters, which may look like any of the names above.
pub fn is_reserved_for_operator(label: &str) -> bool {
    if label.get(2..4) == Some("--") {
        return true;
    }
    let mut bytes = [0; 63];
    let mut length = 0;
    for byte in label.bytes().filter(|byte| *byte != b'-') {
        let Some(place) = bytes.get_mut(length) else { return false };
        *place = byte.to_ascii_lowercase();
        length += 1;
    }
    let folded = &bytes[..length];
    let is_listed = |text: &[u8]| RESERVED.iter().any(|name| name.as_bytes() == text);
    let is_letter = |byte: &u8| !byte.is_ascii_digit();
    let (first, last) = (folded.iter().position(is_letter), folded.iter().rposition(is_letter));
    first.zip(last).is_some_and(|(first, last)| is_listed(&folded[first..=last]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_with_a_meaning_are_reserved_in_any_spelling() {
        for label in [
            "www",
            "wpad",
            "autodiscover",
            "mta-sts",
            "acme-challenge",
            "console",
            "login",
            "auth",
            "sso",
            "account",
            "accounts",
            "signin",
            "id",
            "adit",
            "api",
            "admin",
            "mail",
            "ns1",
            "ns",
            "ns9",
            "ns10",
            "mx1",
            "mx-2",
            "smtp",
            "imap",
            "pop",
            "pop3",
            "imap4",
            "ftp",
            "webmail",
            "postmaster",
            "abuse",
            "hostmaster",
            "webmaster",
            "security",
            "status",
            "support",
            "help",
            "billing",
            "isatap",
            "localhost",
            "local",
            "autoconfig",
            "oauth",
            "oauth2",
            "oidc",
            "saml",
            "saml2",
            "dashboard",
            "health",
            "sign-in",
            "log-in",
            "www2",
            "1www",
            "api-v1",
            "www-1",
            "api-2",
            "dmarc",
            "xn--pple-43d",
            "ab--cd",
            "root",
            "administrator",
            "lyncdiscover",
            "sip",
            "my-account",
        ] {
            assert!(is_reserved_for_operator(label), "{label}");
        }
        for label in
            ["alice", "bob-2", "blog", "my-blog", "wwww", "loginov", "mailman-home", "a", "0", "123", "a--b", "nas"]
        {
            assert!(!is_reserved_for_operator(label), "{label}");
        }
    }

    #[test]
    fn the_list_is_in_the_form_that_is_compared() {
        for name in RESERVED {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn hyphens_and_digits_make_no_name_free(
            at in 0..RESERVED.len(),
            hyphens in any::<u64>(),
            before in "[0-9]{0,2}",
            digits in "[0-9]{0,3}",
        ) {
            let mut label = before;
            for (place, char) in RESERVED[at].chars().enumerate() {
                if place > 0 && hyphens >> (place % 64) & 1 == 1 {
                    label.push('-');
                }
                label.push(char);
            }
            label.push_str(&digits);
            prop_assert!(is_reserved_for_operator(&label));
        }
    }
}
