"""Which number a text answers with, where it holds several."""

from __future__ import annotations

import time

import pytest

from pipeline.scoring.mathvista import extracted, is_right
from pipeline.scoring.numbers import numbers, stated_number, written


def value(text: str) -> float | None:
    found = stated_number(text)
    return found.value if found else None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("So, there is 1 block that has exactly 36 houses.", 1),
        ("There were two bags with at least 60 buttons.", 2),
        ("There are 3 objects that are preferred by more than 7 people.", 3),
        ("There were 2 flocks that had at least 17 birds but fewer than 33 birds.", 2),
        ("14 guests went sledding more than 2 times.", 14),
        ("3 queries have a p-value lower than 0.50.", 3),
        ("There are 3 bars below 40.", 3),
        ("There are two bars that have values > 100.", 2),
        ("There are 4 racks that have only 0 ties.", 4),
        ("The exports are greater than 0.92 % in 3 years.", 3),
        ("In the given data, 3 people lifted at most 46 pounds.", 3),
        ("Answer: The exports are greater than 0.92 % in 1 year.", 1),
    ],
)
def test_a_count_is_meant_and_not_the_limit_behind_it(text: str, count: float) -> None:
    assert value(text) == count


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("There are exactly 36 houses.", 36),
        ("There are at least 3 people in 2 boats.", 3),
        ("The price is over $500.", 500),
        ("To two decimal places, this is equal to 21.3.", 21.3),
        ("The two numbers on the jerseys add up to 21.", 21),
        ("The first has 5 more than the second, which has 7.", 7),
        ("The sum of 3 and 4, which is 7", 7),
        ("It is 20 less than 30, so 10.", 10),
        ("The range is 9 since 12 - 3 = 9 and there are 7 days.", 9),
    ],
)
def test_a_limit_that_is_the_answer_stays_it(text: str, stated: float) -> None:
    assert value(text) == stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("minus 3", -3),
        ("Negative three", -3),
        ("It is minus one.", -1),
        ("minus 2 and a half", -2.5),
        ("5 minus 3 is 2", 2),
        ("twelve minus three is nine", 9),
        ("n minus 3", 3),
        ("three hundred", 300),
        ("There are three hundred people.", 300),
        ("one hundred (100)", 100),
        ("one hundred and one", 101),
        ("three hundred and twenty-five thousand", 325_000),
        ("one million two hundred thousand and five", 1_200_005),
        ("a thousand", 1000),
        ("two dozen eggs", 24),
        ("3 thousand", 3000),
        ("$2.5 million", 2_500_000),
        ("3k", 3000),
        ("3K", 3000),
        ("3km", 3),
        ("one half", 0.5),
        ("two thirds", 2 / 3),
        ("two and a half", 2.5),
        ("one half of it", 0.5),
        ("two halves", 1),
        # An ordinal, coins, and what is counted.
        ("the twenty third", 20),
        ("three quarters", 3),
        ("There are two half circles", 2),
        ("There are two fifth graders.", 2),
        ("There is one half eaten apple on the plate", 1),
        ("There are two hundred-dollar bills", 2),
        ("2 hundred-year-old trees", 2),
        ("2 dozen-egg boxes", 2),
        # A difference.
        ("the total minus 3", 3),
        ("Take the sum minus three", 3),
        ("It shows minus 3", -3),
        ("We get minus three.", -3),
        ("It was recorded as minus 3", -3),
        ("half a dozen", 6),
        ("3½ inches", 3.5),
        ("½", 0.5),
        ("I see one dog.", 1),
        ("There appears to be one person", 1),
        ("The picture shows one dog and a cat", 1),
        ("2 dogs, the one on the left is brown", 2),
        ("Half a million people", 500_000),
        ("a dozen and a half", 18),
        ("two and a half million", 2_500_000),
        ("2 and a half million", 2_500_000),
        ("minus 2 and a half million", -2_500_000),
    ],
)
def test_signs_and_sizes_in_words_are_part_of_the_number(text, stated):
    assert stated_number(text).value == pytest.approx(stated)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("3 of the 5 are red", 3),
        ("3 out of 5 dogs are brown.", 3),
        ("I see 3 of 5 dogs", 3),
        ("3 dogs out of a total of 5 are brown", 3),
        ("Three of the five bottles are full.", 3),
        ("2 of the 5 is 40", 40),
        ("3 boxes of 12 is 36", 36),
        ("4 people are sitting at 2 tables", 4),
        ("4 people are sitting and 3 are standing, so there are 7", 7),
    ],
)
def test_a_part_is_meant_before_its_whole(text, stated):
    assert stated_number(text).value == stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("There are 5 people in the image, and 3 are wearing hats.", 3),
        ("There are 5 people in the image, 3 of whom are wearing hats.", 3),
        ("There are 7 children and 3 are playing with 2 balls", 3),
        ("She is 12 years old and is holding 2 balloons", 12),
        ("There are 3 dogs and they are running in 2 groups", 3),
        # What is done, or where, and no subject.
        ("He is wearing number 23 on a team of 5", 23),
        ("In 2015 the company is selling 30 cars in 4 cities", 30),
        ("Based on the 3 pictures, the man is riding 2 horses", 2),
        ("There are 4 people sitting at 2 tables and they are talking.", 4),
        # All of them.
        ("3 are standing and 2 are sitting, for a total of 5 people", 5),
        ("3 people are standing and 2 are sitting, totaling 5", 5),
        ("3 people are standing and 2 are sitting, making 5 in total", 5),
        ("one is standing, two are sitting, three in total", 3),
        ("There are 5 people and 2 dogs, making it loud", 5),
    ],
)
def test_who_does_something_is_counted_before_what_is_done(text, stated):
    assert stated_number(text).value == stated


@pytest.mark.parametrize("sign", ["plus or minus 3", "plus or minus three"])
def test_plus_or_minus_is_no_sign(sign):
    assert stated_number(f"The answer is {sign}").value == 3


@pytest.mark.parametrize("text", ["1 is running " * 5_000, "5 " + "is running " * 5_000, "5" + ", total" * 5_000])
def test_a_long_sentence_is_read_in_time(text):
    began = time.process_time()
    stated_number(text)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("text", ["1:2", "The ratio is 1.5:2", "1,234:1", "1:2.5"])
def test_a_ratio_is_no_number(text):
    assert stated_number(text) is None


@pytest.mark.parametrize("text", ["1" * 20_000 + ":1", "1." + "1" * 20_000 + ":1", "1" + ",111" * 5_000 + ":1"])
def test_a_long_run_of_digits_is_read_once(text):
    began = time.process_time()
    list(numbers(text))
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("12 cm^2", 12),
        ("9.8 m/s^2", 9.8),
        ("5 m/s^{2}", 5),
        ("$8\\ \\text{m}^3$", 8),
        ("12 cm²", 12),
        ("12 cm<sup>2</sup>", 12),
        ("4 s^-1", 4),
        ("4 s^{-1}", 4),
        ("6 kg m^2 s^-2", 6),
        ("The area is 12 cm^2.", 12),
        ("Answer: 7.5 L/100 km", 7.5),
        ("12 out of 20 houses", 12),
        ("10^2", 100),
        ("3 x 10^2 m^2", 300),
    ],
)
def test_the_power_of_a_unit_is_no_answer(text: str, stated: float) -> None:
    assert value(text) == pytest.approx(stated)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("the final answer is:\n300", 300),
        ("So the final answer is:\n\n300 ml", 300),
        ("The final answer is:\n\n**300**", 300),
        ("Final answer:\n300", 300),
        ("Final answer\n300", 300),
        ("The answer is approximately:\n\n$$x = 300$$", 300),
        ("Here is the answer to your question:\n\nTo get it, 10 - 2 are taken. So there are 8 left.", 8),
        ("Okay, here is the answer: 42", 42),
        ("Here's my answer:\n\nThe model has 9 dots in 3 groups. There are 3 dots in each group.", 3),
        ("答案為：300", 300),
    ],
)
def test_what_follows_a_declaration_is_found_across_lines(text: str, stated: float) -> None:
    assert value(text) == stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Answer: The age gap between the two people is about 20 years.", 20),
        ("The answer is that the two men are 20 years apart.", 20),
        ("Answer: Of the 5 birds, 3 fly away, so 2 are left.", 2),
        ("The answer is the sum of 3 and 4, which is 7.", 7),
        ("Answer: the left man is 40 and the right one 20, so the gap is 20.", 20),
        ("The answer is 4, since there are 2 dogs and 2 cats.", 4),
        ("Answer: about 20 years, as 2 people differ.", 20),
        ("Answer: 3 + 4 = 7", 7),
    ],
)
def test_a_declared_sentence_gives_the_number_it_arrives_at(text: str, stated: float) -> None:
    assert value(text) == stated


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("3/10 = 0.3 or 30%", 0.3),
        ("0.3 or 30%", 0.3),
        ("1/4 or 25%", 0.25),
        ("25% or 1/4", 0.25),
        ("The probability is 0.2 or 20%.", 0.2),
        ("0.33 or 1/3", 0.33),
        ("Answer: 0.5 or 50 percent", 0.5),
    ],
)
def test_one_value_in_two_forms_is_an_answer(text: str, share: float) -> None:
    assert is_right(extracted(text, (), "float"), str(share), "float", 2)


@pytest.mark.parametrize(
    "text", ["3 or 4", "30% or 40%", "0.3 or 3%", "99 or 100", "40-60 MPG", "3 or 4 or 5", "2 to 3"]
)
def test_two_values_are_none(text: str) -> None:
    assert value(text) is None


@pytest.mark.parametrize(
    ("number", "label"),
    [
        (1234567.0, "1234567"),
        (-3.0, "-3"),
        (0.1 + 0.2, "0.3"),
        (931441.25, "931441.25"),
        (2.0**53, "9007199254740992"),
        (1e21, "1e+21"),
        (1 / 3, "0.333333333333333"),
    ],
)
def test_a_number_keeps_its_digits_as_a_label(number: float, label: str) -> None:
    assert written(number) == label


def test_labels_of_extracted_numbers_and_lists_are_written_in_full() -> None:
    assert extracted("1,234,567", (), "integer").text == "1234567"
    assert extracted("[2014, 2016.5]", (), "list").text == "[2014, 2016.5]"
