from dl_proj.settings.errors import reason


def test_reason_of_an_error_that_a_library_raises_with_a_message_alone():
    assert reason(PermissionError(13, "Permission denied", "data")) == "permission denied"
    assert reason(PermissionError("No write access")) == "no write access"
