"""The browser interface: `page` is the document that it answers with, `page_routes` what that asks."""
