"""From rows as people publish them to questions, and how questions are put."""
