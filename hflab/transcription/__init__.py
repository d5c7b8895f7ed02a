"""From recordings to text: CTC models over long files, many files and live sound."""
