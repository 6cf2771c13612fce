"""A service that predicts the classes of videos over HTTP, with a page to try it on."""
