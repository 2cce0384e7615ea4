use super::*;

#[tokio::test]
async fn a_file_that_an_editor_has_emptied_before_it_writes_sends_nobody_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clients.toml");
    let text = format!("[clients.alice]\ntoken_hash = '{}'\n", {
        crate::auth::cheap_hash(&crate::values::Secret::new("x")).unwrap()
    });
    std::fs::write(&path, &text).unwrap();
    let store = Arc::new(Clients::new(load_clients(&path).unwrap()));
    let on_disk = FileStore::new(path.clone(), Arc::clone(&store));
    std::fs::write(&path, "").unwrap();
    on_disk.reload().await;
    let problem = on_disk.problems().unwrap().to_string();
    assert!(
        problem.ends_with("clients.toml: is empty; to let nobody in any more, leave a comment in it, like `# nobody`")
    );
    assert_eq!(store.len(), 1);
    std::fs::write(&path, &text).unwrap();
    on_disk.reload().await;
    assert!(on_disk.problems().is_none());
    // The last client's end is not mistaken for that.
    edit_file(&path, |file| file.revoke_client(&"alice".parse().unwrap())).unwrap();
    on_disk.reload().await;
    assert!(store.is_empty() && on_disk.problems().is_none());
    std::fs::write(&path, "").unwrap();
    on_disk.reload().await;
    assert!(on_disk.problems().is_none(), "there is nobody to send away");
}

#[tokio::test]
async fn a_client_that_is_taken_away_right_after_it_was_added_is_not_overlooked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clients.toml");
    let hash = crate::auth::cheap_hash(&crate::values::Secret::new("x")).unwrap();
    let entry = |id: &str| format!("[clients.{id}]\ntoken_hash = '{hash}'\n");
    std::fs::write(&path, entry("alice")).unwrap();
    let store = Arc::new(Clients::new(load_clients(&path).unwrap()));
    let mut changes = store.changes();
    let on_disk = Arc::new(FileStore::new(path.clone(), Arc::clone(&store)));
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping_up = Arc::clone(&on_disk).watch(stop.clone());
    let operator = async {
        // As SIGHUP or the operator's port have it read at once, and the watch only after a while.
        std::fs::write(&path, entry("alice") + &entry("bob")).unwrap();
        on_disk.reload_changed().await;
        changes.changed().await.unwrap();
        assert_eq!(store.len(), 2);
        std::fs::write(&path, entry("alice")).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(store.len(), 1);
        stop.cancel();
    };
    let both = async { tokio::join!(keeping_up, operator) };
    tokio::time::timeout(std::time::Duration::from_secs(20), both).await.expect("bob may still log in");
}
