"""From rows and run folders to what people read: tables of the documentation, and the page of a run."""
