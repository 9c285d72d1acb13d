"""What a run has to show, on one page: figures, tables and sentences, and how they become a file."""
