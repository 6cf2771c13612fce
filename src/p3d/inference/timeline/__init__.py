"""When something happens in a long video or a live stream."""
