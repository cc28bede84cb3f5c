"""From boxes to questions: boxed pictures, readers of annotations, questions with answers, and copies with boxes on."""
