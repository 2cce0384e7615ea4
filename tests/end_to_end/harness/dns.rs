//! A name server that knows a few TXT records.

use std::collections::HashMap;
use std::net::SocketAddr;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::spawn;

/// Serves `records` (name without a final dot, text) over UDP.
pub async fn serve(records: &[(&str, &str)]) -> SocketAddr {
    let records: HashMap<String, String> =
        records.iter().map(|(name, text)| (format!("{name}."), (*text).to_owned())).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..length], &records);
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
    address
}

fn answer(question: &[u8], records: &HashMap<String, String>) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let asked = question.queries[0].clone();
    let mut answer = question.into_response();
    match records.get(&asked.name().to_ascii().to_lowercase()) {
        Some(text) => {
            let text = RData::TXT(TXT::new(vec![text.clone()]));
            answer.add_answer(Record::from_rdata(asked.name().clone(), 1, text));
        }
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer.to_vec().unwrap()
}
