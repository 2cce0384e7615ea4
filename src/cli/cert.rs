//! `adit cert`

use anstream::println;
use anstyle::Style;
use jiff::Timestamp;

use super::Failure;
use super::server_file::ServerFile;
use crate::server::StartError;
use crate::server::lifecycle::certificate::{self, Origin, ServerCertificate};
use crate::server::options::ServerOptions;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    server: ServerFile,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the certificates: for which names, until when, by which fingerprint [what it does without a command]
    Show,
    /// Make the server's certificate anew, by the authority that is there: agents need nothing new, and a running server
    /// takes it over by itself
    Renew,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let config = args.server.load()?;
    match args.command.unwrap_or(Command::Show) {
        Command::Show => show(&config),
        Command::Renew => renew(&config),
    }
}

fn show(config: &ServerOptions) -> Result<(), Failure> {
    let Some(certificate) = certificate::stored(config).map_err(StartError::Certificate)? else {
        let dir = config.tunnel.tls.dir.display();
        println!(
            "there is no certificate in {dir} yet: `adit server` makes one when it starts; if it has, name its \
             configuration with --config"
        );
        return Ok(());
    };
    print(config, &certificate);
    if config.public.https.is_some() && !config.public.certificates.is_empty() {
        let bold = Style::new().bold();
        for chain in certificate::public_certificates(config).map_err(StartError::Certificate)? {
            println!("{bold}for visitors{bold:#}");
            println!("  names         {}", chain.names.join(", "));
            println!("  good until    {}", end(chain.expires_unix));
        }
    }
    Ok(())
}

fn renew(config: &ServerOptions) -> Result<(), Failure> {
    if config.tunnel.tls.own.is_some() {
        let why = "the certificate is your own (tunnel.tls.cert): whoever made it renews it";
        return Err(Failure::other(why));
    }
    let certificate = certificate::renew(config).map_err(StartError::Certificate)?;
    print(config, &certificate);
    Ok(())
}

fn print(config: &ServerOptions, certificate: &ServerCertificate) {
    let bold = Style::new().bold();
    let origin = match certificate.origin {
        Origin::Operator => "your own".to_owned(),
        Origin::Created => "made just now, with a new authority".to_owned(),
        Origin::Renewed => "renewed just now; agents need nothing new".to_owned(),
        Origin::Stored => format!("made by this server, in {}", config.tunnel.tls.dir.display()),
    };
    println!("{bold}for agents{bold:#}");
    println!("  certificate   {origin}");
    println!("  names         {}", certificate.names.join(", "));
    println!("  good until    {}", end(certificate.expires_unix));
    println!("  fingerprint   {bold}{}{bold:#}", certificate.fingerprint);
}

fn end(unix: u64) -> String {
    let Some(end) = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok()) else {
        return "for ever".to_owned();
    };
    let days = end.duration_since(Timestamp::now()).as_hours().div_euclid(24);
    match days {
        ..0 => format!("{end}: it has ended"),
        days => format!("{end}, {days} days from now"),
    }
}
