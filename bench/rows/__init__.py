"""What is measured: one file a family of rows, and one table of them."""
