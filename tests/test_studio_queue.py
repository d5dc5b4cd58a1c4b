def test_a_paused_job_waits_until_it_is_resumed(tmp_path):
    queue = Queue(tmp_path)
    queue.work("w")
    waiting, running = queue.submit("draw", {}), None
    assert queue.pause(waiting.id).state == INTERRUPTED and queue.claim("w") is None
    queue.resume(waiting.id)
    running = queue.claim("w")
    assert queue.stopping(running.id) is None
    assert queue.pause(running.id).stopping and queue.stopping(running.id) == INTERRUPTED
    assert queue.end(running.id, "w", INTERRUPTED) and queue.get(running.id).ended is None
    queue.resume(running.id)
    again = queue.claim("w")
    queue.cancel(again.id)
    queue.pause(again.id)
    assert queue.stopping(again.id) == CANCELLED, "what is cancelled stays so"
    queue.end(again.id, "w", CANCELLED)
    with pytest.raises(Over, match="only one that waits or runs can pause"):
        queue.pause(again.id)
    queue.close()
